"""nnUNetv2_predict_from_modelfolder, but for its search of the trainer's class.

The search imports every trainer there is, which takes seconds, and fails where torchvision cannot
be imported. Importing this module costs no more than importing nnU-Net's own: its pools do.
"""

from nnunetv2.inference import predict_from_raw_data


def spare_the_search() -> None:
    """Every trainer's network is nnUNetTrainer's, which is the only one imported."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    predict_from_raw_data.recursive_find_trainer_class_by_name = lambda name: nnUNetTrainer


if __name__ == "__main__":
    spare_the_search()
    predict_from_raw_data.predict_entry_point_modelfolder()
