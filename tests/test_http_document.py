"""OpenAPI's document against what the service does with whatever a caller may send."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from maxsearch.serving.http.app import create_app
from maxsearch.serving.http.keys import Keys
from maxsearch.serving.http.options import ServeOptions
from maxsearch.serving.shop.engine import StoreEngine
from maxsearch.serving.store.publish import build_generation
from tests.running import running
from tests.test_shop import ENCODER, products

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store = tmp_path_factory.mktemp("document") / "store"
    build_generation(ENCODER, products(), store)
    engine = StoreEngine.open(store, ENCODER)
    with running(create_app(engine, ServeOptions(), Keys())) as address:
        yield schemathesis.openapi.from_url(f"{address}openapi.json")


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_documented_and_none_is_a_failure(document: Any, mode: Any) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert {"/v1/search", "/v1/search/upload", "/v1/products"} <= {one.path for one in operations}
    for operation in operations:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
        )
        def check(case: Any) -> None:
            # What the schema cannot say, such as that one of three fields is needed, is refused with 422.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        if operation.body or mode is schemathesis.GenerationMode.POSITIVE:
            check()
