// The console. Whatever comes from the service is put on the page as text, never as HTML.

const POLL = 3000;
const STAGES = ["claim", "inspect", "validate", "accept", "train", "gate", "release"];
const VERDICTS = {
  promote: ["good", "promoted"],
  reject: ["warn", "rejected"],
  stopped: ["bad", "stopped"],
  held: ["warn", "held"],
};
const config = document.body.dataset;
const $ = (id) => document.getElementById(id);

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(share * 100).toFixed(1)} %`);
const seconds = (s) => (s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`);
const short = (id) => (id.length > 14 ? `${id.slice(0, 12)}…` : id);

function ago(time) {
  const s = Math.max(0, (Date.now() - new Date(time)) / 1000);
  if (s < 60) return "a moment ago";
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

function sinceText(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

// --- what the service says of itself -------------------------------------------------------------

let labels = [];

function showModel(model) {
  $("model-none").hidden = Boolean(model);
  $("model-some").hidden = !model;
  $("state").textContent = model ? "serving" : "waiting";
  $("state").className = `badge ${model ? "good" : "idle"}`;
  if (!model) return;
  $("version").textContent = `v${model.version}`;
  $("since").textContent = `${sinceText(model.since)}, ${ago(model.since)}`;
  $("since").dateTime = model.since;
  $("dataset").textContent = short(model.dataset_version);
  $("dataset").title = model.dataset_version;
  $("input").textContent = `${model.image_size} × ${model.image_size} ${model.channels === 1 ? "grey" : "RGB"}`;
  $("architecture").textContent = `${model.architecture}, ${model.variant}`;
  $("digest").textContent = model.digest.slice(0, 12);
  $("digest").title = model.digest;
  $("label-count").textContent = model.labels.length;
  const mlflow = `${config.mlflow}/#/models/${encodeURIComponent(config.modelName)}/versions/${model.version}`;
  $("mlflow-version").href = mlflow;
  if (labels.join("\0") !== model.labels.join("\0")) {
    labels = model.labels;
    $("labels").replaceChildren(...labels.map((label) => make("li", "", label)));
    $("known").replaceChildren(...labels.map((label) => Object.assign(make("option"), { value: label })));
  }
}

function showPredictions(predictions) {
  $("count").textContent = predictions ? predictions.last_24_hours.toLocaleString() : "–";
  const hourly = predictions ? predictions.hourly : [];
  const most = Math.max(1, ...hourly);
  $("hours").replaceChildren(
    ...hourly.map((count, i) => {
      const bar = make("i", count ? "" : "none");
      bar.style.height = `${(count / most) * 100}%`;
      const hour = new Date(Math.floor(Date.now() / 3.6e6 - (hourly.length - 1 - i)) * 3.6e6);
      bar.title = `${count.toLocaleString()} in the hour from ${hour.toLocaleTimeString([], { timeStyle: "short" })}`;
      return bar;
    }),
  );
}

function showLog(log, rejected) {
  const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString(undefined, { maximumFractionDigits: 1 })} MB`;
  const told = [];
  if (rejected) told.push(`${rejected.toLocaleString()} answers rejected`);
  if (log.waiting_bytes > log.limit_bytes / 100) {
    told.push(`${megabytes(log.waiting_bytes)} of ${megabytes(log.limit_bytes)} wait on disk to be logged`);
  }
  if (log.shed_images || log.shed_rows) {
    told.push(`let go for want of room: ${log.shed_images.toLocaleString()} images, ${log.shed_rows.toLocaleString()} rows`);
  }
  $("log").textContent = told.join(" · ");
  $("log").className = log.shed_images || log.shed_rows ? "small error" : "small quiet";
}

function showReplicas(replicas) {
  $("replica-count").textContent = replicas ? `${replicas.length} alive` : "";
  $("replicas").replaceChildren(
    ...(replicas || []).map((replica) => {
      const row = make("li");
      const version = replica.model_version;
      row.append(make("span", `badge ${version ? "good" : "idle"}`, version ? `v${version}` : "no model"));
      row.append(make("span", "", replica.host), make("span", "quiet small", `process ${replica.pid}, started ${ago(replica.started_at)}`));
      if (replica.failed_deployment_id) row.append(make("span", "badge bad", `refused deployment ${replica.failed_deployment_id}`));
      if (replica.error) row.append(make("span", "error small words", replica.error));
      return row;
    }),
  );
}

function cell(name, className) {
  const node = make("td", className);
  if (name) node.dataset.name = name;
  return node;
}

const file = (key) => `/console/files/${key.split("/").map(encodeURIComponent).join("/")}`;

function linked(text, href) {
  const line = make("div", "sub");
  line.append(Object.assign(make("a", "", text), { href }));
  return line;
}

function stack(stages) {
  const total = Object.values(stages).reduce((sum, s) => sum + s, 0);
  const bar = make("div", "stack");
  const names = [...STAGES.filter((n) => n in stages), ...Object.keys(stages).filter((n) => !STAGES.includes(n))];
  for (const name of names) {
    const part = make("i", STAGES.includes(name) ? name : "other");
    part.style.flexGrow = 1000 * Math.max(stages[name], 0.001);
    part.title = `${name}: ${seconds(stages[name])}`;
    bar.append(part);
  }
  bar.title = names.map((name) => `${name} ${seconds(stages[name])}`).join(" · ");
  return [bar, make("div", "sub", total ? seconds(total) : "")];
}

function verdictOf(cycle) {
  if (cycle.verdict in VERDICTS) return VERDICTS[cycle.verdict];
  return cycle.finished_at ? ["idle", "no change"] : ["info", "running"];
}

function showCycle(cycle) {
  const row = make("tr");
  const drop = cell("", "drop");
  drop.append(make("b", "", cycle.drop || cycle.origin), make("div", "sub", ago(cycle.started_at)));
  if (cycle.data_docs) drop.append(linked("Data Docs", file(cycle.data_docs)));

  const images = cell("Images", "counts");
  const counts = make("div", "", cycle.drop && cycle.drop_status !== "claimed" && cycle.drop_status !== "held" ? `${(cycle.accepted ?? 0).toLocaleString()} accepted` : "–");
  if (cycle.quarantined) {
    const words = `${cycle.quarantined.toLocaleString()} quarantined`;
    counts.append(linked(words, `/console/quarantine?drop=${encodeURIComponent(cycle.drop_id)}`));
  }
  images.append(counts);

  const dataset = cell("Dataset", "counts");
  const version = make("div", "", cycle.dataset_number ? `#${cycle.dataset_number}` : "–");
  if (cycle.dataset_version) version.append(make("div", "sub", short(cycle.dataset_version)));
  version.title = cycle.dataset_version || "";
  dataset.append(version);

  const versus = cell("Accuracy", "versus");
  const scores = make("div", "", "–");
  if (cycle.challenger_accuracy !== null) {
    const rival = cycle.champion_accuracy === null ? "" : ` against ${percent(cycle.champion_accuracy)}`;
    scores.textContent = `${percent(cycle.challenger_accuracy)}${rival}`;
    const names = [`v${cycle.challenger}`, cycle.champion ? `against v${cycle.champion}` : "the first model"];
    if (cycle.holdout !== null) names.push(`on ${cycle.holdout.toLocaleString()} images`);
    scores.append(make("div", "sub", names.join(" ")));
  }
  versus.append(scores);

  const verdict = cell("Verdict", "verdict");
  const [kind, word] = verdictOf(cycle);
  const words = make("div");
  words.append(make("span", `badge ${kind}`, word));
  if (cycle.reason) words.append(make("div", "sub", cycle.reason));
  if (cycle.decision_report) words.append(linked("Report", file(cycle.decision_report)));
  verdict.append(words);

  const stages = cell("Stages", "stages");
  const bars = make("div");
  bars.append(...stack(cycle.seconds));
  stages.append(bars);

  const live = cell("Drop to live", "end");
  live.append(make("span", "", cycle.drop_to_live_seconds === null ? "–" : seconds(cycle.drop_to_live_seconds)));
  row.append(drop, images, dataset, versus, verdict, stages, live);
  return row;
}

function showCycles(cycles) {
  const some = Boolean(cycles && cycles.length);
  $("cycles").hidden = $("legend").hidden = !some;
  $("cycles-none").hidden = some;
  $("cycles-none").textContent = cycles
    ? "No cycle yet: it begins with the first drop that is marked ready."
    : "The last cycles show up when the catalog answers again.";
  $("cycles").tBodies[0].replaceChildren(...(cycles || []).map(showCycle));
}

function showLegend() {
  $("legend").replaceChildren(
    ...STAGES.map((name) => {
      const item = make("li");
      item.append(make("i", name), name);
      return item;
    }),
  );
}

function showHeld(count) {
  $("held").hidden = !count;
  $("held").firstElementChild.textContent = `${count} ${count === 1 ? "drop waits" : "drops wait"} for a person`;
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

let shown = "";

async function refresh() {
  try {
    const answer = await fetch("/v1/console/overview", { headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
    const state = await answer.json();
    showHeld(state.held_drops);
    notice(state.catalog === "answers" ? "" : "The catalog does not answer. Predictions go on with the live model; their log waits on local disk.");
    showModel(state.model);
    showLog(state.log, state.predictions?.rejected);
    const seen = JSON.stringify({ ...state, log: null }) + Math.floor(Date.now() / 30000);
    if (seen !== shown) {
      // Redrawing what has not changed would take away a reader's selection; "3 min ago" does change.
      showPredictions(state.predictions);
      showReplicas(state.replicas);
      showCycles(state.cycles);
      shown = seen;
    }
  } catch (error) {
    notice(`The service cannot be reached: ${error.message}`);
  }
}

// --- trying an image -----------------------------------------------------------------------------

let answered = null;

function showError(text) {
  $("answer").hidden = true;
  $("answer-none").hidden = true;
  $("answer-error").hidden = false;
  $("answer-error").textContent = text;
}

function showAnswer(answer, roundTrip) {
  answered = answer;
  $("answer-none").hidden = $("answer-error").hidden = true;
  $("answer").hidden = false;
  $("feedback").hidden = false;
  $("thanks").hidden = true;
  $("truth").value = "";
  $("bars").replaceChildren(
    ...answer.top.map(({ label, probability }) => {
      const row = make("li");
      const name = make("span", "name", label);
      name.title = label;
      const track = make("div", "track");
      const fill = make("div", "fill");
      fill.style.width = `${probability * 100}%`;
      track.append(fill);
      row.append(name, make("span", "share", percent(probability)), track);
      return row;
    }),
  );
  const doubt = { unsure: "Too unsure to be relied on · ", unfamiliar: "Unlike the images it knows · " };
  $("why").href = `/v1/predictions/${answer.id}/explanation`;
  $("facts").textContent = `${doubt[answer.reason] ?? ""}Model v${answer.model_version} · ${answer.milliseconds.toFixed(1)} ms in the service, ${roundTrip.toFixed(0)} ms round trip`;
}

function preview(file) {
  const image = $("preview");
  URL.revokeObjectURL(image.src);
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 100);
  image.onerror = () => { image.hidden = true; $("hint").hidden = false; };
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  $("hint").hidden = true;
  $("zone").classList.add("full");
}

async function problem(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the service answered ${answer.status}`;
  }
}

async function ask(file) {
  if (!file) return;
  preview(file);
  const form = new FormData();
  form.append("file", file, file.name || "pasted");
  const started = performance.now();
  try {
    const answer = await fetch("/v1/predict?top=5", { method: "POST", body: form });
    if (answer.ok) showAnswer(await answer.json(), performance.now() - started);
    else showError(await problem(answer));
  } catch (error) {
    showError(`The service cannot be reached: ${error.message}`);
  }
}

function noted(label, standing) {
  const meaning = {
    queued: "a reviewer decides",
    vote: "it is one annotator's vote",
    decision: "it is decided",
    new_class: "a reviewer decides whether that becomes a class",
  };
  return `Noted as “${label}”: ${meaning[standing] ?? "it is kept until its prediction is in the log"}.`;
}

async function give(label) {
  if (!answered || !label.trim()) return;
  const body = JSON.stringify({ prediction_id: answered.id, label, source: "console" });
  const thanks = $("thanks");
  try {
    const answer = await fetch("/v1/feedback", { method: "POST", headers: { "content-type": "application/json" }, body });
    thanks.className = answer.ok ? "small quiet" : "small error";
    thanks.textContent = answer.ok ? noted(label.trim(), (await answer.json()).standing) : await problem(answer);
    if (answer.ok) $("feedback").hidden = true;
  } catch (error) {
    thanks.className = "small error";
    thanks.textContent = `The service cannot be reached: ${error.message}`;
  }
  thanks.hidden = false;
}

const zone = $("zone");
$("picker").addEventListener("change", (event) => {
  ask(event.target.files[0]);
  event.target.value = "";
});
zone.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    $("picker").click();
  }
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) zone.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  ask(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
  if (file) ask(file);
});
$("right").addEventListener("click", () => answered && give(answered.label));
$("feedback").addEventListener("submit", (event) => {
  event.preventDefault();
  give($("truth").value);
});

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, POLL);
}
showLegend();
document.addEventListener("visibilitychange", () => document.hidden || refresh());
poll();
