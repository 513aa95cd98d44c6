import pytest

from dcgan_jax.data.class_folders import make_folder_attributes


def files(*folders, count=3):
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


@pytest.mark.parametrize(
    "names, classes",
    [
        (files("train/cats", "train/dogs", "test/cats", "test/dogs"), ("cats", "dogs")),
        (files("part1/cats", "part2/dogs"), ("cats", "dogs")),
        (files("Train/images/a", "Train/images/b", "VAL/images/a"), ("a", "b")),
        (files("train", "plane"), ("plane", "train")),  # vehicles
        (files("steam train", "express train"), ("express train", "steam train")),
        (files("celeba_train/cats", "celeba_train/dogs", "celeba_test/cats"), ("cats", "dogs")),
        (files("n01440764", "n01443537"), ("n01440764", "n01443537")),  # ImageNet's classes
        (files("cat/00", "dog/01"), ("cat", "dog")),
        (files(*"abcdefghijklmnop", count=30), tuple("abcdefghijklmnop")),
    ],
)
def test_classes_are_found_below_splits_and_parts(names, classes):
    assert make_folder_attributes(names).names == classes


@pytest.mark.parametrize(
    "names, words",
    [
        (files("train", "test"), "test, train are splits"),
        (files("training_set", "validation-images"), "are splits"),
        (files("train2017", "val2017"), "are splits"),
        (files("train/cats", "train/dogs", "test"), "are splits"),
        (files("train", "test", "masks"), "masks, test, train are splits, or beside splits (all of them are used)"),
        (files("train", "val", "thumbnails"), "beside splits"),
        (files("train", "test", "pred", "submission"), "beside splits"),
        (files("images_train", "images_test"), "beside splits"),
        (files("celeba_train", "celeba_test"), "beside splits"),
        (files("seg_train", "seg_test", "seg_pred"), "beside splits"),
        (files("Training", "PublicTest", "PrivateTest"), "beside splits"),
        (files("bounding_box_train", "bounding_box_test", "gallery", "query"), "beside splits"),
        (files("dev_set", "hold-out"), "are splits"),
        (files("Training", "Test", "Validierung"), "are splits"),
        (files("train/cats", "train/dogs", "test/cats", "masks"), "beside splits"),
        (files("train/images", "train/labels"), "images, labels are images and what belongs to them"),
        (files("00000", "01000", "02000"), "00000, 01000, 02000 are numbered parts"),
        (files("part_1", "part_2"), "are numbered parts"),
        (files("00000-00999", "01000-01999"), "are numbered parts"),
        (files("2019-05", "2019-06"), "are numbered parts"),
        (files("100CANON", "101CANON"), "are numbered parts"),
        (files(*(f"{number:02x}" for number in range(0, 256, 16))), "are numbered parts"),
        (files("person1", "person2"), "as of single persons"),
        (files("Anna_Smith", "Bob_Jones", "Zoë_Müller"), "as of single persons"),
        (files(*(f"n{number:06}" for number in range(12))), "as of single persons"),
        (files(*(f"x{chr(97 + number)}" for number in range(12))), "as of single persons"),
        ([*files("a", "b"), "loose.png"], "1 of 7 images are in none of the folders a, b"),
    ],
)
def test_other_folders_are_no_classes_and_a_note_says_why(names, words):
    attributes = make_folder_attributes(names)
    assert attributes.names == () and attributes.values is None and not attributes.warnings
    assert words in attributes.notes[-1]


@pytest.mark.parametrize(
    "names, words",
    [
        (
            files(*(f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(300))),
            "300 folders (aa, ab, ac and 297",
        ),
        (files("a,b", "a_b", "c"), "several folders would be the class a_b"),
    ],
)
def test_too_many_or_equal_classes_are_a_warning(names, words):
    attributes = make_folder_attributes(names)
    assert attributes.values is None and words in attributes.warnings[0]
