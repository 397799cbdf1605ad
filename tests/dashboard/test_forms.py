"""Users upload, submit, clone and administer on the pages, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from app.auth.scopes import Scope
from app.datasets.shapes.table import SHAPES
from app.domain.judging.score_table import ScoredRow
from app.domain.lifecycle import FailureCode
from app.domain.progress import Reported
from app.job_queue import worker_api
from app.job_queue.worker_api import Progress
from tests.dashboard.adapters import publish
from tests.dashboard.browser import Browser
from tests.services import wait_until
from tests.site import Site
from tests.world import BASE_MODEL, SCORES, World, pairs


def upload(browser: Browser, path: Path) -> None:
    """Choose a file in the form and send it."""
    browser.get("/datasets")
    browser.wait_for_id("upload-file")
    browser.id("upload-file").send_keys(str(path))
    browser.id("upload-button").click()


def test_file_is_uploaded_and_its_pairs_shown(
    signed_in: Browser, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(pairs(8))
    upload(signed_in, path)
    signed_in.wait_for_text("mine.jsonl", "#title")
    signed_in.wait_for_text("8 text", "#facts")
    signed_in.wait_for_text("Bad 0", "#pairs")


def test_invalid_file_is_rejected_with_its_lines(signed_in: Browser, tmp_path: Path) -> None:
    signed_in.expected_errors += ["422 (Unprocessable"]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(pairs(3) + b'{"prompt": "q", "chosen": "", "rejected": 5}\n')
    upload(signed_in, path)
    signed_in.wait_for_text("Nothing was stored.", "#upload-state")
    signed_in.wait_for_text("/4", "#upload-problems")


def test_upload_is_read_as_the_form_says(signed_in: Browser, world: World, tmp_path: Path) -> None:
    user = [{"role": "user", "content": "Why?"}]
    rows = [
        {"q": user, "one": "Bad.", "two": "Good.", "verdict": verdict, "note": f"{number}"}
        for number, verdict in enumerate(["second", "second", "nobody"])
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row | {"note": f"n{row['note']}"}) + "\n" for row in rows))
    signed_in.get("/datasets")
    signed_in.wait_for_id("upload-file")
    signed_in.js("for (const d of document.querySelectorAll('details')) d.open = true")
    for name, text in {
        "file": str(path),
        "columns": "prompt=q\nresponse_a = one\nresponse_b=two\nlabel=verdict",
        "labels": "a=first\nb=second",
        "ignore": "note",
        "chat_template_kwargs": "enable_thinking=false\nstyle=a=b",
    }.items():
        signed_in.id(f"upload-{name}").send_keys(text)
    signed_in.id("upload-skip").click()
    signed_in.id("upload-labels").send_keys("\ntie:nobody")
    signed_in.id("upload-button").click()
    signed_in.wait_for_text('not "tie:nobody"', "#upload-state")
    signed_in.id("upload-labels").send_keys(Keys.BACKSPACE * len("\ntie:nobody"))
    signed_in.id("upload-button").click()
    signed_in.wait_for_text("mine.jsonl", "#title")
    signed_in.wait_for_text('enable_thinking=false, style="a=b"', "#facts")
    (dataset,) = world.client.get("/v1/datasets").json()["data"]
    assert dataset["chat_template_kwargs"] == {"enable_thinking": False, "style": "a=b"}
    assert (dataset["pair_count"], dataset["ignored_columns"]) == (2, ["note"])
    assert [skipped["code"] for skipped in dataset["skipped"]] == ["invalid_label"]


def test_form_leads_to_every_shape_that_is_recognised(signed_in: Browser) -> None:
    signed_in.get("/datasets")
    signed_in.wait_for_id("upload-help")
    signed_in.all("#upload-help a")[0].click()
    signed_in.wait_for_text("Shapes of datasets", "#page h1")
    for shape in SHAPES:
        assert shape.name in signed_in.text("table")
        shown = [json.loads(text.text) for text in signed_in.all(f"#{shape.name} pre")]
        assert shown == list(shape.examples)


@pytest.fixture
def form(signed_in: Browser, world: World) -> Browser:
    """The form for a new job, with a base model and a dataset chosen."""
    world.know_base_model()
    dataset = world.upload()["id"]
    signed_in.get(f"/jobs/new?dataset={dataset}")
    signed_in.wait_for_text("Choose a base model", "#dry-run-state")
    Select(signed_in.id("field-base_model")).select_by_value(BASE_MODEL)
    return signed_in


def set_field(browser: Browser, name: str, value: str) -> None:
    """Replace the text of a field of the spec."""
    group = name.partition("-")[0]
    browser.js(
        f"document.getElementById('field-{name}').closest('details')?.setAttribute('open', '')"
    )
    assert group
    field = browser.id(f"field-{name}")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value)


def test_spec_is_checked_while_it_is_typed_and_then_submitted(
    form: Browser, world: World, site: Site
) -> None:
    form.expected_errors += ["422 (Unprocessable", "ERR_"]
    form.wait_for_text("The spec is valid.", "#dry-run-state")
    set_field(form, "lora-r", "0")
    form.wait_for_text("1", "#field-lora-r-error")
    assert form.id("field-lora-r").get_attribute("aria-invalid") == "true"
    set_field(form, "lora-r", "4")
    set_field(form, "name", "from the form")
    set_field(form, "metadata", '{"team": "search"}')
    form.wait_for_text("The spec is valid.", "#dry-run-state")
    form.wait_for_text("Steps", "#preview-facts")
    set_field(form, "training-learning_rate", "1e999")  # JSON has no such number
    form.wait_for_text("number", "#field-training-learning_rate-error")
    set_field(form, "training-learning_rate", "1e-3")
    site.stop()
    form.id("submit").click()
    form.wait_for_text("queued only once", "#dry-run-state")
    set_field(form, "training-learning_rate", "1e-4")
    form.wait_for_text("checked again", "#dry-run-state")
    site.start()
    form.wait_for_text("The spec is valid.", "#dry-run-state")
    form.js("Object.defineProperty(Crypto.prototype, 'randomUUID', {value: undefined})")  # no https
    form.id("submit").click()
    form.wait_for_text("from the form", "#title")
    (job,) = world.client.get("/v1/jobs").json()["data"]
    spec = world.get(job)["spec"]
    assert (spec["lora"]["r"], spec["lora"]["alpha"]) == (4, 32)
    assert spec["metadata"] == {"team": "search"}


def test_clone_changes_and_resets_fields(signed_in: Browser, world: World) -> None:
    world.know_base_model()
    template = "{% for message in messages %}\r\n  {{ message.content }}\n{% endfor %}\n"
    job = world.submit(
        name="first",
        training={"max_steps": 7, "batch_size": 4, "chat_template": template},
        eval_dataset={"fraction": 0.1},
    )
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("clone")
    signed_in.id("clone").click()
    signed_in.wait_for_text("Clone of first", "#title")
    signed_in.wait_for_text("The spec is valid.", "#dry-run-state")
    assert signed_in.id("field-training-max_steps").get_attribute("value") == "7"
    set_field(signed_in, "training-max_steps", "9")
    set_field(signed_in, "training-batch_size", Keys.BACKSPACE)
    signed_in.id("submit").click()
    wait_until("the clone", lambda: len(world.client.get("/v1/jobs").json()["data"]) == 2)
    clone = world.get(world.client.get("/v1/jobs").json()["data"][0])
    assert clone["parent_job_id"] == job["id"]
    training = clone["spec"]["training"]
    assert (training["max_steps"], training["batch_size"]) == (9, 8)
    assert training["chat_template"] == template
    assert clone["spec"]["eval_dataset"] == {"fraction": 0.1, "seed": None}


def test_marked_jobs_are_compared(signed_in: Browser, world: World) -> None:
    dataset = world.upload()["id"]
    for name, rank in (("large", 64), ("small", 4)):
        world.submit(name=name, lora={"r": rank}, train_dataset=dataset)
        lease = world.claim()
        for step in range(1, 6):
            metrics = {"train__grad_norm": float(step)} if name == "large" else {}
            world.step(lease, step, 5, train__loss=rank / 100 + step / 10, **metrics)
    signed_in.get("/")
    signed_in.wait_for_text("small", "#rows")
    for box in signed_in.all("#rows input"):
        box.click()
    signed_in.id("compare").click()
    signed_in.wait_for_text("lora.r", "#result-rows")
    assert signed_in.text("#result-rows").count("seed") == 0  # the same in both
    signed_in.wait_for_text("small 0.54", ".legend")
    signed_in.wait_for_text("large 1.14", ".legend")
    look = "return [...document.querySelectorAll('.legend span')].at(-1).className"
    assert signed_in.js(look) == "line-1"
    Select(signed_in.id("metric")).select_by_value("train/grad_norm")
    signed_in.wait_for_text("large 5", ".legend")
    assert signed_in.js(look) == "line-1"  # the other job has no such metric


def test_worst_pairs_and_errors_of_the_log_are_shown(signed_in: Browser, world: World) -> None:
    job = world.submit(eval_dataset={"fraction": 0.1})
    context = world.claim()
    pair = {
        "line": 7,
        "margin": -2.5,
        "chosen_score": -1.0,
        "rejected_score": 1.5,
        "slice": "maths",
    }
    report = Reported(name="worst_pairs", document={"pairs": [pair]})
    worker_api.record_progress(context, Progress(reports=[report]))
    worker_api.record_log(context, 0, "loading\nUserWarning: slow\nready\n")
    publish(world, context)
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("worst")
    signed_in.all("#worst summary")[0].click()
    signed_in.wait_for_text("maths", "#worst-rows")
    signed_in.wait_for_text("-2.5", "#worst-rows")
    signed_in.all("#logs summary")[0].click()
    signed_in.wait_for_text("UserWarning: slow", "#log-error-text")
    assert "loading" not in signed_in.text("#log-error-text")


def test_evaluation_is_requested_and_its_figures_shown(signed_in: Browser, world: World) -> None:
    adapter = world.request_evaluation(name="first")["adapters"][0]
    world.publish_scores(world.claim(), tables(adapter))
    signed_in.get("/evaluations")
    signed_in.wait_for_text("first", "#rows")
    signed_in.all("#new-evaluation summary")[0].click()
    Select(signed_in.id("adapters")).select_by_value(adapter)
    signed_in.id("evaluation-name").send_keys("second")
    signed_in.id("evaluation-form").submit()
    signed_in.wait_for_text("second", "#title")
    signed_in.wait_for_text("queued", "#status")
    world.publish_scores(world.claim(), tables(adapter))
    signed_in.wait_for_text("75.0 %", "#models")
    signed_in.wait_for_text("base:untrained", "#models")
    signed_in.js("for (const d of document.querySelectorAll('details')) d.open = true")
    signed_in.wait_for_text("Calibration", "#details")
    signed_in.wait_for_text("No pair is in the wrong order.", "#worst-pairs")
    signed_in.assert_accessible()


def test_dataset_is_scored_and_its_scores_are_downloaded(
    signed_in: Browser, world: World, downloads: Path
) -> None:
    adapter = world.request_score_batch(name="first")["adapter"]
    world.fail(world.claim(), FailureCode.NAN_LOSS, "no number")
    signed_in.get("/score-batches")
    signed_in.wait_for_text("no number", "#rows")
    signed_in.all("#new-batch summary")[0].click()
    Select(signed_in.id("adapter")).select_by_value(adapter)
    signed_in.id("batch-name").send_keys("second")
    signed_in.id("truncate").click()
    signed_in.id("batch-form").submit()
    signed_in.wait_for_text("second", "#rows")
    signed_in.wait_for_text("queued", "#rows")
    batch = world.client.get("/v1/score/batches").json()["data"][0]
    spec = world.client.get(f"/v1/score/batches/{batch['id']}").json()["spec"]
    assert (spec["adapter"], spec["overlong"], spec["name"]) == (adapter, "truncate", "second")
    world.publish_batch(world.claim())
    signed_in.wait_for_text("succeeded", "#rows")
    signed_in.js("document.querySelector('[aria-label=\"Download second\"]').click()")
    file = downloads / f"{batch['id']}.jsonl"
    wait_until("the download", lambda: file.exists() and file.read_bytes() == SCORES)
    signed_in.assert_accessible()


def test_waiting_batch_is_cancelled_on_the_page(signed_in: Browser, world: World) -> None:
    batch = world.request_score_batch(name="nightly")
    signed_in.get("/score-batches")
    signed_in.wait_for_text("nightly", "#rows")
    signed_in.js("document.querySelector('[aria-label=\"Cancel nightly\"]').click()")
    signed_in.wait_for_text("cancelled", "#rows")
    found = world.client.get(f"/v1/score/batches/{batch['id']}").json()
    assert found["status"] == "cancelled"


def tables(adapter: str) -> dict[str, list[ScoredRow]]:
    """Scores in which the adapter orders three of four pairs correctly."""
    rows = [
        ScoredRow(line, str(line), (1, 2), (1.0 if line % 4 else -1.0, 0.0), (5, 7))
        for line in range(1, 21)
    ]
    return {"base:untrained": rows, adapter: rows}


def test_notes_are_written_and_read_by_others(signed_in: Browser, world: World) -> None:
    job = world.submit()
    lease = world.claim()
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("notes")
    signed_in.id("notes").send_keys("margin falls", Keys.ENTER, "<b>after</b> step 40")
    signed_in.wait_for_text("Not saved.", "#notes-state")
    world.step(lease, 1, 10, train__loss=0.5)
    signed_in.wait_for_text("step 1 / 10", ".state")  # a refresh does not change the text
    signed_in.id("save-notes").click()
    signed_in.wait_for_text("Saved.", "#notes-state")
    assert world.get(job)["notes"] == "margin falls\n<b>after</b> step 40"
    answer = world.client.patch(f"/v1/jobs/{job['id']}", json={"notes": "by another"})
    assert answer.status_code == 200
    world.step(lease, 2, 10, train__loss=0.5)
    wait_until(
        "the other's notes", lambda: signed_in.id("notes").get_property("value") == "by another"
    )
    signed_in.assert_accessible()


def test_notes_that_are_refused_stay_in_the_form(
    browser: Browser, world: World, key_for: Callable[..., str]
) -> None:
    browser.expected_errors += ["403 (Forbidden)"]
    job = world.submit()
    browser.follow_key_link(key_for("acme", Scope.JOBS_READ))
    browser.get(f"/jobs/{job['id']}")
    browser.wait_for_id("notes")
    browser.id("notes").send_keys("mine")
    browser.id("save-notes").click()
    browser.wait_for_text("jobs:write", "#notes-state")
    assert browser.id("notes").get_property("value") == "mine"
    assert world.get(job)["notes"] is None


def test_every_recorded_metric_can_be_shown(signed_in: Browser, world: World) -> None:
    job = world.submit()
    lease = world.claim()
    for step in (1, 2):
        world.step(
            lease, step, 5, train__loss=0.5, train__grad_norm=step, train__learning_rate=1e-4
        )
    signed_in.get(f"/jobs/{job['id']}")
    signed_in.wait_for_id("more-charts")
    signed_in.all("#more-charts summary")[0].click()
    signed_in.wait_for_text("train/grad_norm", "#other-charts")
    signed_in.wait_for_text("train/learning_rate", "#other-charts")
