"""What a training run needs to go on after it was broken off: kept beside its artifacts, epoch by epoch."""

from pathlib import Path

from common.artifacts import is_intact, load_tensors, save_tensors
from common.distributed import is_first


class TrainingState:
    """The file {name}.resume.pt under args.out: weights, Adam's moments and history after the last finished epoch.

    Nothing random is in it, as what an epoch draws depends on the seed and its number alone. `made_from` names
    what the run depends on beside its options: the fingerprint of the data, the hash of a backbone.
    """

    def __init__(self, args, name, made_from):
        self.path = Path(args.out) / f"{name}.resume.pt"
        self.resume, self.epochs = args.resume, args.epochs
        options = ("lr", "batch_size", "seed", "precision")
        self.settings = {f"--{key.replace('_', '-')}": getattr(args, key) for key in options} | made_from

    def save(self, model, optimizer, history):
        """Keep the state after an epoch, in place of the one before."""
        if is_first():
            weights, moments = model.state_dict(), optimizer.state_dict()["state"]
            state = {"settings": self.settings, "model": weights, "optimizer": moments, "history": history}
            save_tensors(state, self.path)

    def restore(self, model, optimizer):
        """Put the kept state into `model` and `optimizer`; return its history, or None to start from the beginning.

        Raises ValueError when the state is damaged, or of a run with other settings, which are named. With
        --resume=if-same the latter starts from the beginning instead.
        """
        if not self.resume:
            self.tell_of_a_run_broken_off()
            return None
        if not self.path.is_file():
            print(f"There is no {self.path} to resume: starting from the beginning.")
            return None
        state = self.read()
        different = self.differences(state)
        done = len(state["history"]["test_loss"])
        if self.resume == "if-same" and (different or done > self.epochs):
            print(f"{self.path} is of a run with {different or f'{done} epochs'}: starting from the beginning.")
            return None
        if different:
            raise ValueError(f"{self.path} is of a run with {different}: not resumed; without --resume it starts anew")
        if done > self.epochs:
            raise ValueError(f"--epochs {self.epochs}: {self.path} is {done} epochs on already")
        try:
            model.load_state_dict(state["model"])
            # Its own options stay: those kept may be of another device.
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]})
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path} does not fit this network: delete it ({error})") from None
        print(f"Resuming {self.path}: {done} of {self.epochs} epochs are done.")
        return state["history"]

    def read(self):
        """Return the state in the file. Raises ValueError when it holds none."""
        try:
            state = load_tensors(self.path, made_by="the same command", mmap=False)
        except ValueError as error:
            raise ValueError(f"{error}; delete it to start from the beginning") from None
        if not is_intact(self.path):
            raise ValueError(f"{self.path} is damaged, its checksums differ: delete it to start from the beginning")
        try:
            len(state["history"]["test_loss"]), dict(state["settings"]), state["model"], state["optimizer"]
        except (KeyError, TypeError, ValueError, IndexError):
            reason = "is no state of a training run: delete it to start from the beginning"
            raise ValueError(f"{self.path} {reason}") from None
        return state

    def differences(self, state):
        """Return what the kept run was made with that this one is not, as a phrase, empty when there is nothing."""
        kept = state["settings"]
        names = [name for name, value in self.settings.items() if kept.get(name) != value]
        phrases = [
            f"{name} {kept.get(name)}, not {self.settings[name]}" if name.startswith("--") else f"different {name}"
            for name in names
        ]
        return " and ".join(phrases)

    def tell_of_a_run_broken_off(self):
        """Print a line when what is about to be overwritten is an unfinished run of the same settings."""
        try:
            state = self.read()
            done = len(state["history"]["test_loss"])
        except (FileNotFoundError, ValueError):
            return
        if done < self.epochs and not self.differences(state):
            print(f"{self.path} holds {done} epochs of this very run: stop now and add --resume to go on from there.")
