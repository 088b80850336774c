"""The families of misalignment: what each does to the crop, and where its draws come from."""

import math

import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from data.alignment import TEMPLATE_112, estimate_similarity, perturb_landmarks
from data.index.build import FaceIndex
from data.misalignment import FAMILIES, MovedCrop, MovedLandmarks, draw_misalignment
from data.samples.datasets import DistillationDataset
from data.sources.folder import list_folder
from tests.helpers.images import write_crops
from utils.config import load_config
from utils.config.sections import DecodeConfig
from utils.config.train_aikd import StudentCropConfig
from utils.errors import ConfigError

# A face of its image: twice the template, turned by 20 degrees, somewhere in a photograph.
POSE = SimilarityTransform(scale=2, rotation=math.radians(20), translation=(50, 30))
POINTS = POSE(TEMPLATE_112)
CENTRE = TEMPLATE_112.mean(0)


def applied(matrix_23, points):
    return points @ matrix_23[:, :2].T + matrix_23[:, 2]


def test_a_similarity_moves_the_aligned_face_about_its_centre():
    turn, scale, shift = math.radians(-9), 1.1, (5, -12)
    moved = MovedCrop(scale * np.exp(1j * turn), complex(*shift))
    about = SimilarityTransform(translation=-CENTRE) + SimilarityTransform(scale=scale, rotation=turn)
    expected = (about + SimilarityTransform(translation=CENTRE + shift))(TEMPLATE_112)
    np.testing.assert_allclose(applied(moved.matrix(POINTS), POINTS), expected, atol=1e-9)


def test_a_box_stands_upright_in_the_image_and_keeps_the_size_of_the_face():
    matrix = MovedCrop(1.25, 3 - 7j, upright=True).matrix(POINTS)
    np.testing.assert_allclose(matrix[:, :2], 1.25 / 2 * np.eye(2), atol=1e-9)  # half the source, no turn
    np.testing.assert_allclose(applied(matrix, POINTS).mean(0), CENTRE + np.array([3, -7]), atol=1e-9)


def test_moved_landmarks_are_those_of_the_paper():
    rng, same = (np.random.default_rng([4, 5, 6]) for _ in range(2))
    moved = draw_misalignment(StudentCropConfig(radius_px=3, unit="template"), rng)
    expected = estimate_similarity(perturb_landmarks(POINTS, 3, "template", same), TEMPLATE_112)
    np.testing.assert_array_equal(moved.matrix(POINTS), expected)


def drawn(count=2000, **keys):
    cfg = StudentCropConfig.model_validate(keys)
    return [draw_misalignment(cfg, np.random.default_rng([1, 0, row])) for row in range(count)]


def test_crops_move_within_the_spans_asked_for_and_fill_them():
    spans = {"turn_degrees": 10, "scale": [0.5, 2], "right_px": [-4, 8], "down_px": [1, 2]}
    crops = drawn(family="similarity", crop=spans)
    angles = [math.degrees(np.angle(one.factor)) for one in crops]
    scales = [math.log2(abs(one.factor)) for one in crops]
    for values, low, high in (
        (angles, -10, 10),
        (scales, -1, 1),
        ([one.shift.real for one in crops], -4, 8),
        ([one.shift.imag for one in crops], 1, 2),
    ):
        assert low <= min(values) and max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))
        assert np.std(values) == pytest.approx((high - low) / math.sqrt(12), rel=0.05)
    boxes = drawn(family="box", crop=spans)
    assert all(one.upright and np.angle(one.factor) == 0 for one in boxes)


def test_p_is_drawn_for_each_sample_where_its_least_value_is_given():
    widest = [np.abs(one.offsets_52).max() for one in drawn(least_px=2, radius_px=6)]
    assert max(widest) <= 6 and min(widest) < 2.2 and np.mean(widest) == pytest.approx(4 * 10 / 11, abs=0.1)


def test_a_mixture_draws_each_family_as_often():
    kinds = [
        "landmarks" if isinstance(one, MovedLandmarks) else ("box" if one.upright else "similarity")
        for one in drawn(family="mixed")
    ]
    assert set(kinds) == set(FAMILIES)
    assert all(kinds.count(family) == pytest.approx(2000 / 3, rel=0.1) for family in FAMILIES)


@pytest.mark.parametrize("family", ["similarity", "box", "mixed"])
def test_a_crop_depends_on_seed_epoch_and_row_alone(tmp_path, family):
    write_crops(tmp_path, 3)
    source = list_folder(tmp_path)
    index = FaceIndex(source, np.stack([POINTS / 2] * 3).astype(np.float32), np.zeros(3), None)
    data = DistillationDataset(index, 7, StudentCropConfig(family=family), DecodeConfig())
    together = data.__getitems__([(0, 0), (1, 0), (0, 2)]).misaligned.numpy()
    alone = data.__getitems__([(0, 2)]).misaligned.numpy()
    np.testing.assert_array_equal(alone[0], together[2])
    assert (together[0] != together[1]).any()


@pytest.mark.parametrize(
    ("perturbation", "sentence"),
    [
        ({"least_px": 5, "radius_px": 3}, "least_px: 5 lies above radius_px (3)"),
        ({"crop": {"scale": [1.2, 0.8]}}, "from 1.2 to 0.8: write the smaller one first"),
        ({"crop": {"scale": [0, 1]}}, "greater than 0"),
        ({"crop": {"turn_degrees": 20}}, "crop: moves nothing where landmarks are moved"),
        ({"family": "box", "least_px": 2}, "least_px: moves nothing where whole crops are moved"),
        ({"family": "mirror"}, "'landmarks', 'similarity', 'box' or 'mixed'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, perturbation, sentence):
    path = tmp_path / "perturbation.yaml"
    path.write_text(str(perturbation))
    with pytest.raises(ConfigError) as error:
        load_config(StudentCropConfig, path)
    assert sentence in str(error.value)
