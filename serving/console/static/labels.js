// The label questions: each answer is sent by itself; the page is read again when all of it is answered.

async function send(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.ok) return;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? `the service answered ${answer.status}`);
}

function settle(task, words) {
  const form = task.querySelector("form");
  const done = document.createElement("p");
  done.className = "small quiet";
  done.setAttribute("role", "status");
  done.textContent = words;
  form.replaceWith(done);
  task.classList.add("settled");
  if (!document.querySelector("form.answer-task")) location.reload();
}

async function act(task, path, body, words) {
  const error = task.querySelector("[role=alert]");
  const controls = task.querySelectorAll("button, input");
  controls.forEach((control) => (control.disabled = true));
  error.hidden = true;
  try {
    await send(`/v1/label-tasks/${task.dataset.task}/${path}`, body);
    settle(task, words);
  } catch (problem) {
    error.textContent = problem.message;
    error.hidden = false;
    controls.forEach((control) => (control.disabled = false));
  }
}

function answer(task, label) {
  if (label) act(task, "answer", { label }, `Noted: ${label}.`);
}

for (const task of document.querySelectorAll("[data-task]")) {
  task.querySelectorAll("[data-label]").forEach((button) => {
    button.addEventListener("click", () => answer(task, button.dataset.label));
  });
  task.querySelector("[data-dismiss]").addEventListener("click", () => act(task, "dismiss", undefined, "Left as it is."));
  task.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    answer(task, task.querySelector("input").value.trim());
  });
}
