"""What a plan may find in images."""

from paddlemae.tasks.plan.data_survey import DataSurvey, Spread
from paddlemae.tasks.plan.detail import SIDES, Kept


def all_of(value: float) -> Spread:
    return Spread(value, value, value, value, value)


PHOTOS = DataSurvey(
    images=20_000,
    test_images=None,
    classes={},
    labelled=0,
    is_multi_label=False,
    unlabelled="no folders",
    read=512,
    unreadable=0,
    height=Spread(100, 255, 375, 550, 960),
    width=Spread(75, 280, 500, 620, 1280),
    ratio=Spread(0.6, 0.66, 1.33, 1.5, 2.4),
    pixels=2e5,
    channels=3,
    is_gray=False,
    bits=8,
    stored={"RGB of 8 bits": 32},
    mean=(0.5, 0.5, 0.4),
    std=(0.3, 0.3, 0.3),
    kept={side: Kept(1 - 2 / side, min(1.0, (side / 300) ** 1.5)) for side in SIDES},
    flat=0.1,
    open_seconds=0.1,
    read_seconds=0.01,
    image_bytes=6e5,
)
