"""The service's page in a real browser against the real server: what a person does with it, what goes wrong, and who may not see colours
or hold a mouse."""
import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SEVEN, SHORT
from support.page_picture import BROWSERS, browser, page_picture
from vlrlbook.core import blue, green, orange
from vlrlbook.data import synthetic_counting

pytestmark = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium on this machine (Debian: apt install chromium)")
HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
TRAINER = f"{sys.executable} {ROOT / 'tests' / 'support' / 'page_trainer.py'} "
WEB = ROOT / "vlrlbook" / "web"


def serve(folder, *options, pace=0.15, port=0):
    "Start `vlrlbook serve`; the process, with its address as `url`"
    trainer = {"VLRLBOOK_TRAINER": TRAINER + str(pace)} if pace else {}
    process = subprocess.Popen([sys.executable, "-m", "vlrlbook.cli", "serve", "--port", str(port), "--data-dir", str(folder), *options],
                               stdout=subprocess.PIPE, stderr=open(folder.with_suffix(".log"), "a"), text=True,
                               env={**os.environ, **trainer})
    first = process.stdout.readline()
    assert "http://" in first, folder.with_suffix(".log").read_text()
    process.url, process.folder = re.search(r"http://[^/]+", first)[0], Path(folder)
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", int(process.url.rpartition(":")[2]))) == 0: return process
        time.sleep(0.05)
    raise AssertionError("the server does not listen")


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    process = serve(tmp_path_factory.mktemp("server") / "data", "--no-token", "--slots", "3")
    yield process
    going = [j for s in ("queued", "training") for j in ask(f"{process.url}/jobs?status={s}")["jobs"]]
    for job in going: urllib.request.urlopen(urllib.request.Request(f"{process.url}/jobs/{job['job_id']}", method="DELETE"))
    while any(ask(f"{process.url}/jobs/{j['job_id']}")["status"] not in ("cancelled", "completed") for j in going): time.sleep(0.1)
    stop(process)


@pytest.fixture(scope="module")
def chromium():
    with browser() as started: yield started


@pytest.fixture
def page(chromium):
    "A page; at the end: nothing in the console but the refusals that the test expects (`page.refused`), nothing asked of other servers"
    context = chromium.new_context(viewport=dict(width=1280, height=900))
    page, said, asked = context.new_page(), [], []
    page.set_default_timeout(30_000)
    page.refused = ()
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    yield page
    ours = re.match(r"http://[^/]+", page.url)[0]
    hacked = page.evaluate("window.hacked")
    context.close()
    assert [s for s in said if not any(str(r) in s for r in page.refused)] == []
    assert [u for u in asked if not u.startswith((ours + "/", "data:", f"blob:{ours}/"))] == []
    assert hacked is None


def ask(url): return json.load(urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/json"})))


def archive(path, rows=8, bad=True):
    "A counting ZIP with a hostile question and answer, and a picture that is none"
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(["images_path", "question", "answer"])
    with zipfile.ZipFile(path, "w") as z:
        for i, s in enumerate(synthetic_counting(rows, seed=1)):
            picture = io.BytesIO()
            s.images[0].save(picture, "PNG")
            z.writestr(f"images/{i}.png", b"no picture" if bad and i == 3 else picture.getvalue())
            lines.writerow([f"images/{i}.png", s.question + (HOSTILE if i == 1 else ""), s.answer + (HOSTILE if i == 1 else "")])
        z.writestr("main.csv", table.getvalue())
    return path


def upload(page, server, path):
    "Through the page; the file's id"
    page.goto(server.url + "/#/data")
    page.set_input_files("#zip", path)
    page.wait_for_selector(".gallery li")
    return page.url.rpartition("/")[2]


@pytest.fixture(scope="module")
def data(server, chromium, tmp_path_factory):
    "An upload that tests may train on"
    page = chromium.new_page()
    file_id = upload(page, server, archive(tmp_path_factory.mktemp("zip") / "discs.zip"))
    page.close()
    return file_id


def start(server, data, name="a job", **settings):
    "A job without the page; its id"
    body = json.dumps(dict(job_name=name, data_file_id=data, training_config=settings)).encode()
    return json.load(
        urllib.request.urlopen(urllib.request.Request(server.url + "/train", body, {"Content-Type": "application/json"})))["job_id"]


def points(page):
    "Values in the reward's curve"
    return page.evaluate("document.querySelector('.chart.blue .mean')?.getAttribute('points').split(' ').length ?? 0")


def wait(page, what):
    "Until the expression is true; the page's policy forbids Playwright's own way, which is eval"
    for _ in range(600):
        if page.evaluate(what): return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {what}")


def more_points(page, than):
    wait(page, f"(document.querySelector('.chart.blue .mean')?.getAttribute('points').split(' ').length ?? 0) > {than}")

def setting(page, name, value):
    "Type a setting; they are folded away, and unfolded here as a person would"
    field = page.locator(f"[id='training_config.{name}']")
    field.evaluate("e => { for (let d = e.closest('details'); d; d = d.parentElement.closest('details')) d.open = true; }")
    field.fill(str(value))


def answers(page):
    "How many answers the first card stands for: equal ones are one line"
    times = [re.search(r"× (\d+)", text) for text in page.locator(".rollout").first.locator("tbody td.text").all_inner_texts()]
    return sum(int(found[1]) if found else 1 for found in times)


def status(page): return page.get_attribute(".state [data-status]", "data-status")
def until(page, state): page.wait_for_selector(f".state [data-status={state}]")


def test_upload_train_chart_download(page, server, tmp_path):
    path = archive(tmp_path / "a<b onclick=x>&.zip")
    upload(page, server, path)
    assert path.name in page.inner_text("h1")
    assert "7 rows of 8 kept, 1 skipped" in page.inner_text("main")
    assert "image.decode" in page.inner_text("[aria-label='Skipped rows']") and "images/3.png" in page.inner_text(
        "[aria-label='Skipped rows']")
    assert page.locator(".gallery li").count() == 7 and HOSTILE in page.locator(".gallery li").nth(1).inner_text()
    wait(page, "[...document.querySelectorAll('.gallery img')].every(i => i.complete && i.naturalWidth > 0 && i.naturalWidth <= 320)")
    page.click("text=Train on this data")
    page.fill("#job_name", HOSTILE)
    setting(page, "max_steps", 20)
    page.click("button >> text=Start training")
    page.wait_for_selector(".chart.blue .mean")
    assert HOSTILE in page.inner_text("h1")
    seen = points(page)
    more_points(page, seen)
    page.wait_for_selector(".rollout")
    assert answers(page) == 8 and page.locator(".signed .minus").count() and page.locator(
        ".silent").count()
    assert page.locator(".rollout td.overall").first.inner_text() in ("1.00", "0.85", "0.70", "0.40")
    assert "<script>" in page.locator(".rollout tbody").first.inner_text()
    until(page, "completed")
    page.wait_for_selector(".outcome >> text=Better: right answers went from 31 % to 58 %")
    page.click("text=The 2 questions behind this")
    assert "cannot tell" in page.inner_text(".questions") and "<script>window.hacked=1" in page.inner_text(".sentence")
    page.click("text=The numbers as a table")
    wait(page, "document.querySelectorAll('[aria-label=\"Numbers of the run\"] tbody tr').length === 20")
    assert points(page) == 20
    assert "–" in page.locator("[aria-label='Numbers of the run'] tbody tr").nth(18).inner_text()
    with page.expect_download() as got: page.click("a.primary >> text=Download")
    assert {"adapter_model.safetensors", "manifest.json"} <= set(zipfile.ZipFile(got.value.path()).namelist())


def test_reload_in_mid_run(page, server, data):
    job = start(server, data, max_steps=200)
    page.goto(f"{server.url}/#/jobs/{job}")
    more_points(page, 3)
    page.reload()
    more_points(page, 4)
    assert status(page) == "training" and page.url.endswith(job) and page.locator(".rollout").count() == 2
    page.goto(f"{server.url}/#/train?file={data}")
    setting(page, "max_steps", 77)
    page.fill("#job_name", "kept")
    reload_what_stands_in_the_address(page)
    page.wait_for_selector("#job_name")
    assert page.input_value("#job_name") == "kept" and page.input_value("[id='training_config.max_steps']") == "77"


def reload_what_stands_in_the_address(page):
    """Reload as the page itself would, and wait for the new one.

    The form writes its address with `history.replaceState`, which the browser's own process hears a moment later.
    A reload that Playwright asks of that process can be quicker, and then loads the address of the key before:
    no person is that fast, a busy machine's test is.
    """
    with page.expect_navigation(): page.evaluate("location.reload()")


def slow_upload(page, speed):
    "From now on, `speed` bytes a second"
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions",
                                            dict(offline=False, latency=0, downloadThroughput=-1, uploadThroughput=speed))


def test_upload_shows_how_far_it_is_and_can_be_stopped(page, server, tmp_path):
    page.goto(server.url + "/#/data")
    page.wait_for_selector("#zip")
    before, path = ask(server.url + "/files")["files"], archive(tmp_path / "large.zip")
    with zipfile.ZipFile(path, "a") as z: z.writestr("images/unused.png", os.urandom(3_000_000))
    slow_upload(page, 500_000)
    page.set_input_files("#zip", path)
    wait(page, "document.querySelector('progress')?.value > 0.1")
    page.click("header nav a >> nth=2")
    page.wait_for_selector("h1 >> text=Jobs")
    page.click("header nav a >> nth=0")
    page.wait_for_selector(".upload-status progress")
    assert re.search(r"Uploading: \d0 % of 3.0 MB", page.inner_text(".upload-status")) and page.is_disabled("#zip")
    page.click("text=Stop the upload")
    page.wait_for_selector("text=The upload was stopped; nothing was kept")
    assert page.is_enabled("#zip") and ask(server.url + "/files")["files"] == before


def test_drop(page, server, tmp_path):
    page.goto(server.url + "/#/data")
    page.wait_for_selector(".drop")
    page.evaluate("""(data) => {
      const given = new DataTransfer(), bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      given.items.add(new File([bytes], 'dropped.zip'));
      for (const kind of ['dragenter', 'dragover', 'drop']) document.querySelector('.drop').dispatchEvent(new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true }));
    }""", base64.b64encode(archive(tmp_path / "dropped.zip", bad=False).read_bytes()).decode())
    page.wait_for_selector("h1 >> text=dropped.zip")
    assert "8 rows of 8 kept, none skipped" in page.inner_text("main") and page.locator("[aria-label='Skipped rows']").count() == 0


def test_answers_can_be_read_in_peace(page, server, data):
    page.goto(f"{server.url}/#/jobs/{start(server, data, max_steps=60)}")
    page.wait_for_selector(".rollout")
    page.uncheck("#newest")
    seen = None
    while seen != (seen := page.inner_text("[aria-labelledby=answers-title]")): page.wait_for_timeout(500)
    more_points(page, points(page) + 3)
    assert page.inner_text("[aria-labelledby=answers-title]") == seen
    page.check("#newest")
    wait(page, f"document.querySelector('[aria-labelledby=answers-title]').innerText !== {json.dumps(seen)}")


def test_presets(page, server, data):
    page.goto(f"{server.url}/#/train?file={data}")
    page.wait_for_selector("#preset-normal:checked")
    # a preset's words say the numbers that the server's own settings have
    fields = {f["name"]: f["default"] for f in ask(f"{server.url}/settings")["training_config"]}
    assert f"{fields['max_steps']} steps" in page.inner_text("#preset-normal-help")
    page.check("#preset-quick")
    assert page.input_value("[id='training_config.max_steps']") == "20" and "training_config.max_steps=20" in page.url
    setting(page, "max_steps", 21)
    assert page.locator("[name=preset]:checked").count() == 0
    page.check("#preset-normal")
    assert page.input_value("[id='training_config.max_steps']") == str(fields["max_steps"]) and "training_config" not in page.url
    page.check("#preset-quick")
    page.click("button >> text=Start training")
    page.wait_for_selector(".state [data-status]")
    job = ask(f"{server.url}/jobs/{page.url.rpartition('/')[2]}")
    assert job["total_steps"] == 20 and job["parameters"]["warm_steps"] == 100


def test_each_task_has_its_own_form(page, server, data):
    "What it learns is chosen first; defaults, presets and data follow, and the name that was typed stays"
    page.goto(f"{server.url}/#/train?file={data}")
    task = "[id='training_config.task']"
    page.wait_for_selector(task)
    assert page.input_value(task) == "counting" and page.locator("[id='training_config.max_looks']").count() == 0
    assert page.locator(f"{task} option").all_inner_texts() == ["Counting: how many?", "Questions: yes, no, a word",
                                                               "Pointing: where? (boxes)", "Zoom: how many, looking twice"]
    page.fill("#job_name", "looking")
    setting(page, "max_steps", 21)
    page.select_option(task, "zoom")
    page.wait_for_selector("[id='training_config.max_looks']", state="attached")
    defaults = {f["name"]: f["default"] for f in ask(f"{server.url}/settings?task=zoom")["training_config"]}
    assert page.input_value("[id='training_config.max_steps']") == str(defaults["max_steps"]) # 21 was typed for another task
    assert page.input_value("#job_name") == "looking" and page.input_value("#data_file_id") == data # it has counts, which zoom needs
    assert f"{defaults['max_steps']} steps" in page.inner_text("#preset-normal-help") and page.is_checked("#preset-normal")
    assert page.evaluate("document.activeElement.id") == "training_config.task"
    page.select_option(task, "pointing")
    page.wait_for_selector("[id='training_config.max_looks']", state="detached")
    assert page.input_value("#data_file_id") == "drawn" and "None of the uploads is for this task" in page.inner_text("main")
    assert "training_config.task=pointing" in page.url and "max_steps" not in page.url
    reload_what_stands_in_the_address(page) # what was chosen
    page.wait_for_selector(task)
    assert (page.input_value(task), page.input_value("#job_name")) == ("pointing", "looking")
    page.check("#preset-quick")
    page.click("button >> text=Start training")
    page.wait_for_selector(".state [data-status]")
    job = ask(f"{server.url}/jobs/{page.url.rpartition('/')[2]}")
    assert (job["parameters"]["task"], job["data_file_id"], job["total_steps"]) == ("pointing", None, 20)
    page.click("summary >> text=About this job")
    page.wait_for_selector("dd >> text=drawn pictures")
    # Folded or open: the notes are open while the job waits for its turn.
    page.wait_for_selector("text=pictures are drawn to train on, by seed 43", state="attached")


def test_boxes_are_uploaded_as_boxes(page, server):
    page.goto(server.url + "/#/data")
    page.select_option("#kind", "pointing")
    assert page.get_attribute("text=Download them", "href").endswith("sample-data?kind=pointing")
    page.click("text=Use 60 drawn pictures")
    page.wait_for_selector("text=60 rows of 60 kept, none skipped")
    assert "in pixels of 112 x 112" in page.inner_text(".gallery")
    file_id = page.url.rpartition("/")[2]
    page.click("text=Train on this data")
    page.wait_for_selector("#data_file_id")
    assert (page.input_value("[id='training_config.task']"), page.input_value("#data_file_id")) == ("pointing", file_id)


def test_a_job_with_a_second_look(page, server, data):
    "Both turns stand below one another beside a wide picture; the figures and what was read in an answer are the task's"
    job = start(server, data, max_steps=8, task="zoom")
    answer = dict(text="zoom(0, 0, 28, 28) → picture → A photo of 2 discs", parts=dict(overall=0.9, looks=1.0), advantage=0.1)
    image = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    group = dict(row=1, question="How many?", truth="A photo of 2 discs", image=image, answers=[answer])
    page.route("**/rollouts", lambda route: route.fulfill(json=dict(step=1, groups=[group])))
    figure = dict(asked="best guess", measure="mean_iou", words="overlap of boxes (IoU)", before=0.25, after=0.5, gain=0.25,
                  ci95=[0.125, 0.375], interval="Tango")
    verdict = dict(outcome="better", sentence="Better.", questions=[], task="zoom", figures=[figure, figure | dict(gain=-0.5, ci95=None)])
    page.route("**/verdict", lambda route: route.fulfill(json=verdict))
    page.goto(f"{server.url}/#/jobs/{job}")
    page.wait_for_selector(".rollout.wide img[alt*='looked at']")
    assert page.locator(".rollout .turn").all_inner_texts() == ["zoom(0, 0, 28, 28)", "→ picture", "→ A photo of 2 discs"]
    until(page, "completed")
    page.click("summary >> text=Before and after, in figures")
    rows = [page.locator(f".outcome tbody tr >> nth={i} >> td").all_inner_texts() for i in (0, 1)]
    assert rows[0] == ["best guess", "overlap of boxes (IoU)", "0.250", "0.500", "+0.250", "+0.125 to +0.375"]
    assert rows[1][4:] == ["−0.500", "–"]
    assert page.input_value("#try-question") == "How many discs are there?"
    one = dict(greedy="zoom(0, 0, 28, 28) → picture → A photo of 2 discs", sampled=[], read="2", picture=image)
    page.route("**/ask?**", lambda route: route.fulfill(json=dict(question="q", task="zoom", before=one | dict(read=None), after=one)))
    page.set_input_files("#try-picture", dict(name="a.png", mimeType="image/png", buffer=b"any"))
    page.click("text=Ask the model")
    page.wait_for_selector(".replies >> text=Read as: 2")
    assert "This answer could not be read." in page.inner_text(".replies") and page.locator(".replies img[alt*='enlarged']").count() == 2


def test_getting_ready_has_a_progress_of_its_own(page, server, data):
    job = start(server, data, max_steps=5, seed=17)
    page.goto(f"{server.url}/#/jobs/{job}")
    page.wait_for_selector("text=Getting ready: the untrained model is given a start")
    text, bars, curves = page.evaluate("""[document.querySelector('.state').textContent,
        ...['main progress', 'main figure'].map(s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).length)]""")
    assert "getting ready" in text and "5 steps of training follow" in text and (bars, curves) == (1, 0) # one bar; no empty curves
    (server.folder / "jobs" / job / "seen").touch()
    until(page, "completed")
    page.click("summary >> text=Log")
    page.wait_for_selector(".log >> text=step 5 of 5")
    assert page.inner_text(".log").count("warm start") == 1 # one bar, one line


def test_an_old_state_does_not_undo_the_end(page, server, data):
    "A question may be answered with the state of a second ago, after the stream has told the end; Firefox met it"
    job = start(server, data, max_steps=8)
    while (old := ask(f"{server.url}/jobs/{job}"))["status"] == "queued": time.sleep(0.05)
    assert old["status"] == "training"
    page.route(f"**/jobs/{job}", lambda route: route.fulfill(json=old))
    page.goto(f"{server.url}/#/jobs/{job}")
    until(page, "completed") # by the stream
    page.wait_for_timeout(3000)
    assert status(page) == "completed" and "Cancel" not in page.inner_text(".actions >> nth=0")


def test_from_photographs_to_data(page, server, tmp_path):
    "Nobody has to write a table or make a ZIP"
    from PIL import Image
    paths = [tmp_path / f"p{i}.jpg" for i in range(3)]
    for i, path in enumerate(paths): Image.new("RGB", (64 + i, 64), (80 * i, 90, 200)).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "IMG_1.heic").write_bytes(b"\0\0\0\x18ftypheic") # an iPhone's: the server cannot read it, so it is not counted first
    page.goto(server.url + "/#/data")
    page.click("text=Only photographs?")
    page.set_input_files("#photos", [*paths, tmp_path / "notes.txt", tmp_path / "IMG_1.heic"])
    page.wait_for_selector("text=2 of 5 files were left out")
    assert "HEIC: save it as JPEG" in page.inner_text(".photos")
    wait(page, "[...document.querySelectorAll('.photos img')].every(i => i.complete && i.naturalWidth > 0)")
    page.fill("#photo-question", 'How many "things", please?')
    page.click("text=Upload these photographs")
    page.wait_for_selector("[role=alert] >> text=needs its true number")
    for i in range(3): page.fill(f"#photo-{i + 1}", str(i + 2))
    page.click("text=Upload these photographs")
    page.wait_for_selector("text=3 rows of 3 kept, none skipped")
    assert 'How many "things", please?' in page.inner_text(".gallery")


def test_try_it(page, server, data, tmp_path):
    page.refused = (422,)
    page.goto(f"{server.url}/#/jobs/{start(server, data, max_steps=3)}")
    until(page, "completed")
    page.wait_for_selector("#try-question")
    page.click("text=Ask the model")
    page.wait_for_selector("text=Choose a picture first")
    said = dict(question="q", task="counting", before=dict(greedy=HOSTILE, sampled=[]), after=dict(greedy="3 discs", sampled=["3", "4"]))
    page.route("**/ask?**", lambda route: route.fulfill(json=said))
    page.set_input_files("#try-picture", archive(tmp_path / "any.zip"))
    page.click("text=Ask the model")
    page.wait_for_selector(".replies >> text=3 discs")
    assert HOSTILE[:20] in page.inner_text(".replies") and "Further tries: 3, 4" in page.inner_text(".replies")
    page.unroute("**/ask?**")
    page.click("text=Ask the model")
    page.wait_for_selector("[role=alert] >> text=ask.failed", timeout=150_000) # the trainer of this test leaves no adapter


def test_cancel_resume_remove(page, server, data):
    page.goto(f"{server.url}/#/jobs/{start(server, data, name='to cancel', max_steps=60)}")
    more_points(page, 5)
    page.click("button >> text=Cancel")
    page.click("dialog >> text=No, go back")
    assert status(page) == "training"
    page.click("button >> text=Cancel")
    page.click("dialog >> text=Cancel the job")
    until(page, "cancelled")
    wait(page, "document.activeElement.textContent === 'Resume'")
    page.click("text=Resume")
    until(page, "completed")
    assert "from" in page.inner_text(".facts") and points(page) == 60
    page.click("button >> text=Remove")
    page.click("dialog >> button >> text=Remove")
    page.wait_for_url("**/#/jobs")
    page.wait_for_selector("h1 >> text=Jobs")
    assert "to cancel" not in page.inner_text("main")


def test_errors_are_shown_in_words_with_their_code(page, server, data, tmp_path):
    page.refused = (400, 404, 409, 422)
    (tmp_path / "bad.zip").write_text("this is no archive")
    page.goto(server.url + "/#/data")
    page.set_input_files("#zip", tmp_path / "bad.zip")
    assert "zip.broken" in page.inner_text("[role=alert]")
    page.check("#strict")
    page.set_input_files("#zip", archive(tmp_path / "strict.zip"))
    page.wait_for_selector("[role=alert] >> text=image.decode")
    page.goto(f"{server.url}/#/train?file={data}")
    setting(page, "learning_rate", "much")
    setting(page, "num_generations", 1)
    page.click("button >> text=Start training")
    assert "2 fields" in page.inner_text("[role=alert]")
    assert page.evaluate("document.activeElement.id") == "training_config.learning_rate"
    assert "not a number" in page.inner_text("[id='training_config.learning_rate-error']") and "2 to 64" in page.inner_text(
        "[id='training_config.num_generations-error']")
    setting(page, "learning_rate", 1e-4)
    setting(page, "num_generations", 8)
    setting(page, "batch_size", 9)
    page.click("button >> text=Start training")
    page.wait_for_selector("[aria-invalid]")
    assert page.evaluate("document.activeElement.id") == "training_config.batch_size"
    said = page.inner_text("[id='training_config.batch_size-error']")
    assert "at most 6 would do" in said and "training_config.batch_size" in said
    page.goto(f"{server.url}/#/jobs/nowhere")
    page.wait_for_selector("[role=alert] >> text=job.unknown")
    page.goto(f"{server.url}/#/jobs/{start(server, data, seed=13)}")
    until(page, "failed")
    assert "trainer.exit" in page.inner_text("main") and "stopped at an error: it did not work" in page.inner_text(".notice.bad")
    assert page.locator("text=Resume").count() == 0 # there is no checkpoint: it would be refused
    page.click("text=The message as the program wrote it")
    assert "exit 1" in page.inner_text(".notice.bad pre")
    page.click("text=Start again")
    page.wait_for_selector("#job_name")
    assert page.input_value("#data_file_id") == data
    start(server, data, max_steps=40)
    page.goto(f"{server.url}/#/data")
    page.click(f".cards li:has(a[href*='{data}']) >> text=Remove")
    page.click("dialog >> button >> text=Remove")
    page.wait_for_selector("[role=alert] >> text=file.in_use")


def test_a_failed_press_is_not_lost(page, server, data):
    "An error that appears while the button is held down must not move it away"
    page.refused = (422,)
    page.goto(f"{server.url}/#/train?file={data}")
    setting(page, "temperature", "hot")
    page.click("button >> text=Start training", delay=200)
    page.wait_for_selector("[role=alert] >> text=One field")


def test_a_lost_reply_does_not_start_a_second_job(page, server, data):
    page.refused = ("ERR_FAILED",)
    lost = []

    def lose(route):
        lost.append(route.fetch().json()["job_id"])
        route.abort()

    page.route("**/train", lose, times=1)
    page.goto(f"{server.url}/#/train?file={data}&training_config.max_steps=2")
    page.click("button >> text=Start training")
    page.wait_for_selector("[role=alert] >> text=connection.lost")
    page.click("button >> text=Start training")
    page.wait_for_selector(".state [data-status]")
    assert page.url.rpartition("/")[2] == lost[0]


def tab_to(page, name, most=80):
    "Press Tab until the focus is on `name`, and be sure that a person sees where it is on the way"
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e); return [(e.getAttribute('aria-label') ?? "
            "e.labels?.[0]?.textContent ?? e.textContent).trim(), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2, "
            "e.tagName]; })()")
        assert found[1] or found[2] == "BODY", f"no outline at {found}"
        if found[0].startswith(name): return
    raise AssertionError(f"{name!r} cannot be reached with Tab")


def test_keyboard_only(page, server):
    press, choosers = page.keyboard.press, []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.goto(server.url)
    page.wait_for_selector("h1")
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "Choose a ZIP")
    press("Enter")
    for _ in range(100): page.wait_for_timeout(0 if choosers else 50)
    assert len(choosers) == 1
    tab_to(page, "Use 60 drawn pictures")
    press("Enter")
    page.wait_for_selector(".gallery li")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    tab_to(page, "Next")
    press("Enter")
    page.wait_for_selector("text=Page 2 of 3")
    assert page.locator(".gallery li").count() == 24
    tab_to(page, "Train on this data")
    press("Enter")
    page.wait_for_selector("form")
    tab_to(page, "All settings")
    press("Enter")
    tab_to(page, "Training steps")
    page.keyboard.type("100")
    press("Enter")
    page.wait_for_selector(".chart.blue .mean")
    wait(page, "document.getElementById('live').textContent !== ''")
    tab_to(page, "Cancel")
    press("Enter")
    page.wait_for_selector("dialog[open]")
    press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    press("Enter")
    tab_to(page, "Cancel the job")
    press("Enter")
    until(page, "cancelled")
    wait(page, "document.getElementById('live').textContent.includes('cancelled')")
    assert page.evaluate("document.activeElement !== document.body")


def every_view(page, server, data):
    "Go to each view in turn; its name"
    job = start(server, data, name="seen " + HOSTILE, max_steps=12)
    failed = start(server, data, name="a name without any room to break " + "x" * 120, seed=13)
    yield from ((name, page.goto(f"{server.url}/#{path}"), page.wait_for_selector(there))[0] for name, path, there in (
        ("data", "/data", ".cards li"), ("file", f"/data/{data}", ".gallery li"),
        ("form", f"/train?file={data}&training_config.lr_scheduler_type=cosine", "form"),
        ("job", f"/jobs/{job}", "main:has(.mean) .rollout"),
        ("failed", f"/jobs/{failed}", ".notice.bad"), ("jobs", "/jobs", ".cards li"), ("nowhere", "/nowhere", "h1 >> text=no such page")))


def test_narrow_screen_has_no_sideways_scroll(page, server, data):
    page.set_viewport_size(dict(width=375, height=700))
    for name in every_view(page, server, data):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && "
            "!e.closest('.unseen, .scroll, svg, thead')).map(e => e.outerHTML.slice(0, 120))")
        assert (page.evaluate("document.documentElement.scrollWidth"), wide) == (375, []), name
    page.goto(server.url + "/#/data")
    page.wait_for_selector("#zip")
    small = page.evaluate(
        "[...document.querySelectorAll('button, .button, header a, input:not([type=checkbox]), select')].filter(e => e.offsetHeight && "
        "e.offsetHeight < 32).map(e => e.textContent)")
    assert small == []


CONTRAST = """() => {
  const read = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
  const ground = (e) => { const own = e ? read(getComputedStyle(e).backgroundColor) : [255, 255, 255, 1]; return own[3] === 1 || !e ? own.slice(0, 3) : over(own, ground(e.parentElement)); };
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const seen = (e) => e.getClientRects().length && !e.closest('.unseen, :disabled');
  const out = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!seen(e)) continue;
    const style = getComputedStyle(e), under = ground(e);
    const says = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || 'value' in e;
    if (says && e.tagName !== 'PROGRESS') out.push(['text', ratio(over(read(e.namespaceURI.endsWith('svg') ? style.fill : style.color), under), under), e.outerHTML.slice(0, 90)]);
    if (e.matches('.mean')) out.push(['line', ratio(read(style.stroke).slice(0, 3), under), e.closest('svg').className.baseVal]);
    if (e.matches('.plus, .minus')) out.push(['bar', ratio(read(style.fill).slice(0, 3), under), e.className.baseVal]);
    if (e.matches('input, select, .drop')) out.push(['edge', ratio(read(style.borderTopColor).slice(0, 3), ground(e.parentElement)), e.outerHTML.slice(0, 90)]);
  }
  return out;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, server, data, scheme):
    "WCAG AA by computation: 4.5 for text, 3 for lines, bars and edges of fields; the colours are core's in both schemes"
    page.emulate_media(color_scheme=scheme)
    kinds = set()
    for name in every_view(page, server, data):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found = page.evaluate(CONTRAST)
        kinds |= {kind for kind, _, _ in found}
        assert [f for f in found if f[1] < (4.5 if f[0] == "text" else 3)] == [], name
    assert kinds == {"text", "line", "bar", "edge"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ("rgb(18, 20, 23)" if scheme == "dark"
        else "rgb(247, 247, 245)")
    assert [page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{n}')") for n in ("blue", "orange",
        "green")] == [blue, orange, green]


NAMELESS = """() => {
  const out = [], name = (e) => e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') ?? '').split(' ').map((i) => document.getElementById(i)?.textContent ?? '').join('') || [...e.labels ?? []].map((l) => l.textContent).join('') || (e.matches('input, select, progress, svg') ? '' : e.textContent.trim());
  for (const e of document.querySelectorAll('a, button, input, select, progress, section, dialog, table[role], [role=region], svg[role=img], nav')) if (!name(e)) out.push('no name: ' + e.outerHTML.slice(0, 100));
  for (const e of document.querySelectorAll('[aria-describedby], [aria-labelledby]')) for (const i of `${e.getAttribute('aria-describedby') ?? ''} ${e.getAttribute('aria-labelledby') ?? ''}`.trim().split(/ +/)) if (!document.getElementById(i)) out.push('points nowhere: ' + i);
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  ids.filter((i, n) => ids.indexOf(i) !== n).forEach((i) => out.push('twice: ' + i));
  document.querySelectorAll('img:not([alt])').forEach((e) => out.push('no alt: ' + e.outerHTML));
  const levels = [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]));
  levels.forEach((l, n) => { if (l > (levels[n - 1] ?? 0) + 1) out.push('heading leaps to ' + l); });
  if (levels.filter((l) => l === 1).length !== 1) out.push('not one h1');
  document.querySelectorAll('svg[role=img]').forEach((e) => { if (!e.querySelector('title')?.textContent || !e.querySelector('desc')?.textContent) out.push('a chart without words'); });
  document.querySelectorAll('[style], script:not([src]), style').forEach((e) => out.push('inline: ' + e.outerHTML.slice(0, 80)));
  return out;
}"""


def test_everything_has_a_name_and_an_order(page, server, data):
    page.emulate_media(reduced_motion="reduce")
    for name in every_view(page, server, data):
        assert page.evaluate(NAMELESS) == [], name
        assert page.title().endswith("vlrlbook") and page.evaluate("document.getAnimations().length") == 0
    page.goto(f"{server.url}/#/jobs")
    page.wait_for_selector(".cards li")
    page.goto(f"{server.url}/#/data")
    assert page.get_attribute("header nav a >> nth=0", "aria-current") == "page"


def drawn(page, row, rows):
    "What a chart of `rows` rows makes of `row`, a function in JavaScript: headings, points of the reward's curve, labels of its axes"
    return page.evaluate("""async ([row, rows]) => {
      const { chart } = await import('/static/chart.js'), made = chart(), at = { a: (i) => ({ step: i, reward: 1, loss: null, silent: 0 }), b: (i) => ({ step: 5 * i, reward: -2e-5 * Math.sin(i), loss: i, silent: 1 }) }[row];
      made.add(Array.from({ length: rows }, (_, i) => at(i)));
      const svg = made.node.querySelector('svg');
      return [[...made.node.querySelectorAll('h3')].map((h) => h.textContent), svg.querySelector('.mean')?.getAttribute('points').split(' ').length, [...svg.querySelectorAll('text')].map((t) => t.textContent)];
    }""", [row, rows])


def test_charts_of_odd_runs(page, server):
    page.goto(server.url)
    page.wait_for_selector("h1")
    assert drawn(page, "a", 0) == [["reward (n = 0)", "loss (n = 0)", "silent groups (n = 0)"], None, ["no step logged yet"]]
    assert drawn(page, "a", 1) == [["reward (n = 1)", "loss (n = 0)", "silent groups (n = 1)"], 1,
                                   ["0.9", "0.95", "1", "1.05", "1.1", "0", "1", "step"]]
    assert drawn(page, "b", 40)[2] == ["−2e−5", "−1e−5", "0", "1e−5", "2e−5", "0", "50", "100", "150", "step"]
    heads, points, _ = drawn(page, "b", 150_000)
    assert heads[0] == "reward (n = 150000)" and 1000 < points <= 1501


def test_without_a_stream_the_page_asks(page, server, data):
    page.refused = ("ERR_FAILED",)
    page.route("**/events", lambda route: route.abort())
    page.goto(f"{server.url}/#/jobs/{start(server, data, max_steps=40)}")
    more_points(page, 2)
    more_points(page, points(page))


def test_a_hidden_page_gives_its_stream_back(page, server, data):
    "Browsers allow six connections to a server: the seventh open page would stand still"
    asked = []
    page.on("request", lambda r: asked.append(r.url.rpartition("/")[2]))
    page.goto(f"{server.url}/#/jobs/{start(server, data, max_steps=100)}")
    more_points(page, 2)
    for hidden, streams in (("true", 1), ("false", 2)):
        page.evaluate(
            f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); document.dispatchEvent(new "
            "Event('visibilitychange'))")
        page.wait_for_timeout(300)
        assert asked.count("events") == streams
    more_points(page, points(page))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_lost_server_is_told_and_found_again(page, tmp_path):
    page.refused = ("ERR_",)
    port = free_port()
    process = serve(tmp_path / "data", "--no-token", port=port, pace=0.1)
    file_id = upload(page, process, archive(tmp_path / "discs.zip"))
    page.goto(f"{process.url}/#/jobs/{start(process, file_id, max_steps=400)}")
    more_points(page, 3)
    stop(process)
    page.wait_for_selector("#connection >> text=Connection lost")
    seen = points(page)
    process = serve(tmp_path / "data", "--no-token", port=port, pace=0.1)
    try:
        more_points(page, seen + 3)
        wait(page, "document.getElementById('connection').textContent === ''")
        page.click("button >> text=Cancel")
        page.click("dialog >> text=Cancel the job")
        until(page, "cancelled")
    finally: stop(process)


def test_token(page, tmp_path):
    page.refused = (401,)
    process = serve(tmp_path / "data")
    token = (tmp_path / "data" / "token").read_text().strip()
    try:
        page.goto(process.url + "/#/jobs")
        page.wait_for_selector("h1 >> text=needs its token")
        assert "door.token" in page.inner_text("main") and page.evaluate(NAMELESS) == []
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=was not accepted")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=No job has been started yet")
        assert "token" not in page.url and page.url.endswith("#/jobs") and "vlrlbook_token" not in page.evaluate("document.cookie")
        assert [(c["httpOnly"], c["sameSite"]) for c in page.context.cookies()] == [(True, "Strict")]
        page.goto(process.url + "/#/train")
        page.wait_for_selector("text=There is no data to train on yet")
    finally: stop(process)


def test_a_real_job(page, tmp_path):
    "Chapter 05 itself, as small as it goes, from the drawn pictures to the downloaded adapter"
    process = serve(tmp_path / "data", "--no-token", pace=None)
    try:
        page.goto(process.url)
        page.click("text=Use 60 drawn pictures")
        page.click("text=Train on this data")
        for name, value in SHORT.items(): setting(page, name, value)
        page.click("button >> text=Start training")
        page.set_default_timeout(180_000)
        page.wait_for_selector(".rollout")
        assert answers(page) == 4
        until(page, "completed")
        wait(page, "document.querySelector('.chart.blue .mean').getAttribute('points').split(' ').length === 2")
        with page.expect_download() as got: page.click("a.primary >> text=Download")
        names = set(zipfile.ZipFile(got.value.path()).namelist())
        assert SEVEN | {"out.ipynb", "manifest.json"} <= names
        with page.context.expect_page() as opened: page.click(".actions >> text=Notebook")
        opened.value.wait_for_selector("h1 >> text=Learning from one's own answers")
        seen = opened.value.inner_text("body")
        assert "<p>" not in seen and str(tmp_path) not in seen and opened.value.locator("img[src^='data:image/']").count() > 3
        assert page_picture(page.url, wait=".rollout").startswith(b"\x89PNG")
    finally: stop(process)


def test_the_page_travels_with_the_package():
    "Everything that the page asks for lies in vlrlbook/web, and setup.py carries that folder"
    there = {p.name for p in WEB.iterdir()}
    asked = set(re.findall(r'static/([\w.]+)"', (WEB / "index.html").read_text())) | {
        m for p in WEB.glob("*.js") for m in re.findall(r'from "\./([\w.]+)"', p.read_text())}
    assert asked | {"index.html"} == there
    assert 'lib: ["web/*"' in (ROOT / "setup.py").read_text() and "graft vlrlbook/web" in (ROOT / "MANIFEST.in").read_text()
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(",
                             p.read_text()) for p in Path(WEB).glob("*.js"))
