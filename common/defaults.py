"""The scripts' default options, to be looked up without importing the scripts or torch; a test holds them equal.

FIXED names the options whose default is the assignment's number. The other defaults are this project's choices.
"""

_TRAINING = {"batch_size": 64, "precision": "float32", "deterministic": False, "seed": 0, "device": "auto"}
DEFAULTS = {
    "q1_data": {
        "data": None,
        "source": "auto",
        "dataset": "sdss",
        "count": 21785,
        "image_size": 69,
        "main_train": None,
        "transfer_train": None,
        "split": "stratified",
        "stats_images": 1000,
        "seed": 0,
    },
    "q2_fcn": _TRAINING | {"epochs": 50, "lr": 0.001},
    "q3_cnn": _TRAINING | {"epochs": 50, "lr": 0.002},
    "q4_confusion": {"seed": 0, "device": "auto", "force": False},
    "q5_transfer": _TRAINING | {"epochs": 20, "lr": 0.005, "backbone": None, "force": False},
}
NO_SETTINGS = ("out", "cache", "resume")  # where files lie, and how a run came to its end, change no result
FIXED = ("epochs", "lr", "batch_size", "image_size", "stats_images", "main_train", "transfer_train")
TRAIN_SIZES = {"main_train": 18000, "transfer_train": 1000}  # of Galaxy10 SDSS
