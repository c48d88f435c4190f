"""SkyPilot's own parser reads the recipe. It wants an environment of its own; the tests skip where it is absent."""

import copy
import re

import pytest

yaml = pytest.importorskip("yaml")
sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot, in another environment")

from sky.utils import schemas  # noqa: E402

from tests.launch_files import LAUNCH  # noqa: E402

RECIPE = yaml.safe_load((LAUNCH / "sky" / "train.yaml").read_text())


def test_the_recipe_is_read_as_meant():
    task = sky.Task.from_yaml_config(copy.deepcopy(RECIPE))
    (resources,) = task.resources
    assert resources.use_spot and resources.accelerators == {"H100": 8}
    assert resources.job_recovery == {
        "strategy": "EAGER_NEXT_REGION",
        "max_restarts_on_errors": 3,
        "recover_on_exit_codes": [75],
    }
    assert task.num_nodes == 2
    assert task.storage_mounts["/bucket"].source == "gs://my-bucket"
    code = re.search(r"--stopped-exit-code (\d+)", (LAUNCH / "entry.sh").read_text()).group(1)
    assert resources.job_recovery["recover_on_exit_codes"] == [int(code)]


def test_the_recovery_has_fields_that_sky_pilot_knows():
    """Its parser lets unknown ones of job_recovery pass, so they are compared with its schema."""
    known = next(
        option["properties"]
        for option in schemas.get_resources_schema()["properties"]["job_recovery"]["anyOf"]
        if option.get("type") == "object"
    )
    assert RECIPE["resources"]["job_recovery"].keys() <= known.keys()


@pytest.mark.parametrize(
    ("part", "right", "wrong"),
    [(None, "num_nodes", "num_node"), (None, "file_mounts", "file_mount"), ("resources", "use_spot", "use_spots")],
)
def test_a_misspelt_field_fails(part, right, wrong):
    recipe = copy.deepcopy(RECIPE)
    fields = recipe[part] if part else recipe
    fields[wrong] = fields.pop(right)
    with pytest.raises((ValueError, sky.exceptions.InvalidSkyPilotConfigError)):
        sky.Task.from_yaml_config(recipe)
