"""What docs/failures.md says happens if something goes wrong: every row of its table has a test."""

import ast

from conftest import ROOT

# The beginning of each row, and the test that holds what it says.
TESTS = {
    "a training is killed": "test_resume.test_killed_again_and_again_a_chain_ends_with_the_same_bits",
    "you press Ctrl-C": "test_resume.test_ctrl_c_says_how_to_resume_and_that_resumes",
    "`--resume` finds other": "test_resume.test_other_settings_data_and_another_backbone_are_refused_and_named",
    "`--resume` finds nothing": "test_resume.test_with_nothing_to_resume_it_starts_from_the_beginning_and_says_so",
    "`--resume` finds a damaged state": "test_resume.test_a_damaged_state_is_refused_and_kept",
    "the disk is full": "test_atomic.test_a_full_disk_leaves_every_artifact_as_it_was",
    "the folder cannot be written": "test_atomic.test_a_read_only_folder_is_found_before_the_training",
    "a run is killed while": "test_atomic.test_a_kill_while_writing_leaves_the_old_files_and_the_next_run_clears_up",
    "two runs of a question": "test_atomic.test_of_two_runs_at_once_the_second_is_refused",
    "files of two runs": "test_atomic.test_without_locks_a_mixture_of_two_runs_is_refused_by_later_steps",
    "a network was trained": "test_checkpoint.test_q4_and_q5_refuse_networks_of_another_split_unless_forced",
    "the loss becomes NaN": "test_train.test_a_loss_that_is_no_number_ends_the_run_with_epoch_and_step",
    "memory runs out": "test_train.test_out_of_memory_says_what_to_lower",
    "`make -j8`": "test_train.test_any_hash_seed_gives_the_same_bits",
    "`--backbone` is another's": (
        "test_checkpoint.test_other_peoples_checkpoints_are_recognised_and_give_the_same_features"
    ),
    "`--backbone` holds two networks": (
        "test_checkpoint.test_other_networks_are_refused_with_what_was_expected_and_found"
    ),
    "`predict.py --model` is another's": (
        "test_trained.test_predict_takes_another_ones_checkpoint_and_says_what_its_record_lacks"
    ),
    "`--backbone` is another network": (
        "test_checkpoint.test_other_networks_are_refused_with_what_was_expected_and_found"
    ),
    "`--backbone` is cut short": (
        "test_checkpoint.test_files_that_are_no_checkpoint_are_named_for_what_they_are_and_run_nothing"
    ),
    "the data are no HDF5": "test_hdf5.test_a_damaged_chunk_is_called_so",
    "the file is stored with bitshuffle": ("test_hdf5.test_without_hdf5plugin_the_filter_is_named_and_what_to_install"),
    "the file is of your own": "test_hdf5.test_without_names_only_the_form_of_a_published_set_has_its_names",
    "a tiny file declares": "test_hdf5.test_a_billion_images_in_a_tiny_file_are_not_believed",
    "the images lie elsewhere": "test_hdf5.test_links_and_data_elsewhere_are_not_followed",
    "images are floats": "test_hdf5.test_what_is_wrong_with_the_contents_is_said",
    "there are no images": "test_hdf5.test_what_is_wrong_with_the_contents_is_said",
    "a table of your own": "test_own_galaxies.test_what_does_not_fit_is_counted_and_left_out",
    "it gives one picture": "test_own_galaxies.test_a_table_that_cannot_be_used_is_one_line_and_the_data_stay",
    "a picture of the table": "test_own_galaxies.test_pictures_that_cannot_be_read_and_names_of_two_stop_the_run",
    "no classes are held back": "test_own_galaxies.test_ten_classes_of_decals_form_run_through_the_chain",
    "another class has no": "test_chain.test_classes_without_images_or_with_only_one_do_not_end_the_chain",
    "`--calibrate` keeps": (
        "test_calibration.test_a_fraction_that_leaves_no_image_of_a_class_is_refused_before_the_training"
    ),
    "the file is replaced": "test_hdf5.test_a_file_that_changes_while_it_is_read_is_not_taken",
    "a mirror stalls": "test_download.test_a_bad_mirror_is_named_and_the_next_one_tried",
    "no mirror is left": "test_source.test_auto_falls_back_on_synthetic_galaxies_with_a_warning",
    "`--data`, `--backbone` or": "test_paths.test_an_address_is_refused_in_one_line_before_anything_is_written",
    "a compute node": "test_studies.test_with_weights_of_its_own_an_encoder_needs_no_network",
    "the file that Q1 has read": (
        "test_studies.test_the_encoder_sees_the_pictures_of_the_file_at_their_own_resolution"
    ),
    "`export.py --license`": "test_export.test_a_licence_that_the_hub_does_not_know_is_refused_and_nothing_written",
    "the notebook's kernel": "test_notebook_kernel.test_a_cell_that_fails_is_named",
    "the file in the cache": "test_download.test_a_cached_file_gone_bad_is_fetched_anew",
    "several processes want": "test_download.test_two_processes_at_once_fetch_once",
    "bytes of the data": "test_fuzz.test_damaged_files_are_read_or_refused_in_a_sentence",
    "a folder of pictures": (
        "test_picture_files.test_what_may_not_be_read_below_a_folder_is_an_error_and_the_rest_goes_on"
    ),
    "a picture's name": "test_picture_files.test_predict_answers_files_of_any_name_and_writes_all_outputs",
    "a compressed FITS file": "test_fits.test_a_compressed_bomb_is_not_decompressed",
    "a file to be written is also": (
        "test_predict_files.test_an_output_that_is_also_an_input_or_another_output_is_refused"
    ),
    "a file to be written is a link": "test_predict_files.test_devices_pipes_and_links_are_written_through",
    "`predict.py` is interrupted": (
        "test_predict_resume.test_an_interrupted_run_keeps_its_rows_and_resumes_to_the_same_bytes"
    ),
    "`predict.py` finds": (
        "test_predict_resume.test_what_an_interrupted_run_has_written_is_neither_overwritten_nor_continued_by_another"
    ),
    "`--resume` comes with": (
        "test_predict_resume.test_what_an_interrupted_run_has_written_is_neither_overwritten_nor_continued_by_another"
    ),
    "two runs of `predict.py`": "test_predict_resume.test_of_two_runs_at_once_the_second_is_refused",
    "a Dask worker dies": "test_dask.test_when_a_worker_is_killed_nothing_is_lost",
    "`--dask` is a wrong": "test_dask.test_a_wrong_address_is_one_sentence",
    "a Dask worker does not": "test_dask.test_what_a_worker_does_not_see_is_named_in_one_sentence",
    "the `temperature` in": "test_trained.test_a_record_with_another_kind_of_value_is_refused",
    "`--csv answers.fits` or": (
        "test_predict_files.test_a_table_that_cannot_be_written_is_refused_before_anything_is_read"
    ),
    "nobody reads what is printed": "test_predict_files.test_when_nobody_reads_the_table_the_files_are_completed",
    "the terminal's encoding": "test_predict_files.test_what_a_terminal_cannot_show_is_escaped",
    "a table of true classes": (
        "test_predict_files.test_what_is_ambiguous_unknown_or_contradicts_is_refused_with_its_row"
    ),
    "the notebook has no data": "test_notebook.test_without_the_data_one_sentence_says_where_to_get_them",
    "`make notebook`": "test_notebook.test_without_data_or_packages_one_line_says_what_is_missing",
    "a submission loops": "test_nbgrader.test_a_run_that_misbehaves_is_ended_with_a_message_and_the_next_are_marked",
    "students have deleted": "test_repair.test_cells_are_as_released_again_and_the_solutions_are_kept",
}


def test_every_row_has_its_test():
    lines = (ROOT / "docs" / "failures.md").read_text().splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][1:]
    for row, (beginning, test) in zip(rows, TESTS.items(), strict=True):
        assert row.startswith(beginning)
        module, _, function = test.partition(".")
        tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
