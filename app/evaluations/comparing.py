"""Compare two evaluations. The routes limit the number of concurrent comparisons."""

from __future__ import annotations

from sqlalchemy import Engine

from app.core.database import transaction
from app.core.errors import TooLargeError
from app.domain.judging.comparison import compare
from app.domain.judging.metrics import NoPairsError
from app.domain.judging.score_table import ScoredRow, read_rows
from app.evaluations import service
from app.evaluations.errors import InvalidComparisonError
from app.evaluations.schemas import ComparedModel, ComparisonRead
from app.evaluations.service import ScoreFile
from app.storage.blobs import read_range

#: Number of comparisons that one process computes concurrently.
MAX_COMPARISONS = 2
#: Size limit of each score table: about 200,000 rows, which take a few seconds.
MAX_SCORE_BYTES = 48 << 20


def compare_evaluations(
    engine: Engine, tenant_id: str, a: tuple[str, str | None], b: tuple[str, str | None]
) -> ComparisonRead:
    """Compare two models. Each side is (evaluation, adapter); None means its first adapter.

    Raises:
        EvaluationNotFoundError, EvaluationUnfinishedError, InvalidComparisonError, TooLargeError
    """
    with transaction(engine) as session:
        side_a = service.score_file(session, tenant_id, *a)
        side_b = service.score_file(session, tenant_id, *b)
        if side_a.dataset_sha256 != side_b.dataset_sha256:
            raise InvalidComparisonError(
                "The evaluations have different rows.",
                hint="Evaluate both adapters on the same dataset.",
            )
        uses = service.uses(session, tenant_id, side_a.dataset_sha256)
    if (a[0], side_a.adapter) == (b[0], side_b.adapter):
        raise InvalidComparisonError(
            "Both sides have the same scores.", hint="Name another evaluation or another adapter."
        )
    try:
        # If the sides are swapped, the seed is the same: so is the result, the other way round.
        seed = max(side_a.seed, side_b.seed)
        result = compare(_rows(engine, a[0], side_a), _rows(engine, b[0], side_b), seed=seed)
    except NoPairsError as error:
        raise InvalidComparisonError(
            str(error), hint="The results of the evaluations list the rows that were left out."
        ) from error
    return ComparisonRead.model_validate(
        {
            **result,
            "a": ComparedModel(evaluation=a[0], adapter=side_a.adapter),
            "b": ComparedModel(evaluation=b[0], adapter=side_b.adapter),
            "dataset_sha256": side_a.dataset_sha256,
            "dataset_uses": uses,
        }
    )


def _rows(engine: Engine, evaluation: str, side: ScoreFile) -> list[ScoredRow]:
    if side.file.size > MAX_SCORE_BYTES:
        raise TooLargeError(
            f"The scores have {side.file.size} bytes; {MAX_SCORE_BYTES} can be compared.",
            hint="Evaluate on fewer rows.",
        )
    try:
        data = b"".join(read_range(engine, side.file.blob_id, 0, side.file.size))
    except LookupError as error:  # deleted meanwhile
        raise service.not_found(evaluation) from error
    return read_rows(data.split(b"\n")[:-1])
