"""A poisoned drop that is not the newest is named, with its images, by the features of a model trained with it."""

from ml.catalog import cycles
from ml.context import Context
from ml.datasets import revert
from ml.gate import blame, scores
from ml.ingest import ingest
from ml.training.train import train
from tests.pictures import digits, upload


def files(start: int, stop: int, shift: int = 0) -> dict[str, bytes]:
    return {
        f"{(int(label) + shift) % 10}/{i}.png": data for i, (label, data) in enumerate(digits()) if start <= i < stop
    }


def test_the_drop_that_made_a_model_worse_is_named_until_it_is_reverted(context_with_mlflow: Context) -> None:
    ctx = context_with_mlflow
    ingest(ctx, upload(ctx, "one", files(0, 600)))
    bad = ingest(ctx, upload(ctx, "bad", files(600, 800, shift=1))).drop_id
    version = str(ingest(ctx, upload(ctx, "clean", files(800, 1000))).version)
    cycles.open_cycle(ctx.engine, "c1", "manual")
    model = train(ctx, version, cycle_id="c1", epochs=4).model_version
    loaded = scores.load_model(ctx, model)
    found = blame.find(ctx, scores.evaluate(ctx, model, loaded, version), version)
    assert found is not None
    first = found["drops"][0]
    assert (first["drop"], first["name"], len(first["images"])) == (bad, "bad", 20)
    assert first["contradicting"] > first["expected"]
    undone = str(revert.revert(ctx, "bad", actor="ann", reason="shifted labels").version)
    again = blame.find(ctx, scores.evaluate(ctx, model, loaded, undone), undone)
    assert again is not None
    assert again["drops"] == [], "what is left agrees with the holdout"
