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
        (files("train", "test", "other"), "other, test, train are splits, or beside splits (all of them are used)"),
        (files("train", "val", "thumbnails"), "beside splits"),
        (files("train", "test", "pred", "submission"), "beside splits"),
        (files("images_train", "images_test"), "beside splits"),
        (files("celeba_train", "celeba_test"), "beside splits"),
        (files("seg_train", "seg_test", "seg_pred"), "beside splits"),
        (files("Training", "PublicTest", "PrivateTest"), "beside splits"),
        (files("bounding_box_train", "bounding_box_test", "gallery", "query"), "beside splits"),
        (files("dev_set", "hold-out"), "are splits"),
        (files("Training", "Test", "Validierung"), "are splits"),
        (files("train/cats", "train/dogs", "test/cats", "others"), "beside splits"),
        (files("train/images", "train/photos"), "images, photos are folders of images (all of them are used)"),
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


SURNAMES = [
    f"{a}{b}er" for a in ("Sand", "Bak", "Fish", "Mill", "Weav") for b in ("", "l", "n", "m", "t", "k", "p", "d", "g", "s")
]
BREEDS = ["golden", "labrador", "curly coated", "flat coated", "chesapeake bay", "nova scotia"]


@pytest.mark.parametrize(
    "folders, are_persons",
    [
        ([f"Adam {name}" for name in SURNAMES[:12]], True),
        ([f"adam_{name}".lower() for name in SURNAMES], True),
        ([f"yaleB{number:02}" for number in range(1, 13)], True),
        (["m.0107_f", "m.01xyz", "m.02_1b"], True),
        ([f"{name} {kind}" for name in BREEDS for kind in ("retriever", "terrier")], False),
        ([f"{name} {kind}".title() for name in BREEDS for kind in ("retriever", "terrier")], False),
        ([f"{name.lower()} pie" for name in SURNAMES], False),
        ([f"{name.lower()} n{name.lower()}" for name in SURNAMES[:12]], False),
        ([f"Adam {name}" for name in SURNAMES[:11]] + ["Beagle"], False),
        (["Golden Retriever", "Border Collie", "Jack Russell"], False),
    ],
)
def test_many_images_of_each_person_are_told_from_classes(folders, are_persons):
    attributes = make_folder_attributes(files(*folders, count=30))
    assert (attributes.names == ()) == are_persons
    assert not are_persons or "as of single persons" in attributes.notes[-1]


@pytest.mark.parametrize(
    "names, words",
    [
        (
            files(*(f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(300))),
            "300 folders (aa, ab, ac and 297",
        ),
        (files("a,b", "a_b", "c"), "several folders would be the class a_b"),
        (files("Smile", "smile"), "several folders would be the class smile"),
        (files("caf\u00e9", "cafe\u0301"), "several folders would be the class caf"),
        (files(" ", "a"), "only spaces"),
    ],
)
def test_too_many_or_equal_classes_are_a_warning(names, words):
    attributes = make_folder_attributes(names)
    assert attributes.values is None and words in attributes.warnings[0]
