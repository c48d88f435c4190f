"""Starts the pipeline and waits for it. Importable without Apache Beam, which is an extra of the package."""

from collections.abc import Sequence
from pathlib import Path

from maxsearch.data.tables.formats import first_line
from maxsearch.data.tables.remote import is_url
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.prepare.beam.flags import settings_of
from maxsearch.prepare.manifest import Contents
from maxsearch.prepare.options import PrepareOptions
from maxsearch.prepare.rejections import Rejections
from maxsearch.prepare.store import SCRATCH, Store
from maxsearch.progress import Progress


def run(
    options: PrepareOptions,
    draft: Path,
    rejections: Rejections,
    progress: Progress | None,
    *,
    flags: Sequence[str] = (),
) -> dict[str, Contents]:
    """Writes everything but the rejections and the manifests; see `embedded.run.run`, which writes the same.

    Args:
      options: checked ones.
      draft: the folder to fill, which all workers must see; where `options.out` is a URL, they write there instead.
      rejections: takes the rejected rows.
      progress: not used: Beam has ways of its own to tell.
      flags: see `settings_of`.

    Raises:
      UsageError, MaxsearchError: as `prepare`, and when Beam is not installed, a flag is wrong, or the job fails.
    """
    settings, runner = settings_of(flags)
    import apache_beam as beam

    from maxsearch.prepare.beam.pipeline import build
    from maxsearch.prepare.beam.results import finished

    remote = isinstance(options.out, str) and is_url(options.out)
    store = Store(str(options.out) if remote else str(draft))
    if not remote:
        (draft / SCRATCH).mkdir()
    try:
        pipeline = beam.Pipeline(runner=runner, options=settings)
    except ValueError as error:  # what a runner finds wrong with its options
        said = " ".join(str(error).split())
        raise UsageError(f"--beam-options {' '.join(flags)} is refused by Beam ({said})") from None
    build(pipeline, options, store)
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # whatever a runner or a lost worker raises
        raise MaxsearchError(f"the Beam job failed ({first_line(error)}): see its log, and run it again") from None
    if state != "DONE":
        raise MaxsearchError(f"the Beam job ended as {state}: see its log, and run it again")
    contents = finished(options, draft, store, rejections)
    store.remove(SCRATCH)
    return contents
