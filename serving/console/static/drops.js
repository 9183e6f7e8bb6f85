// Decisions on drops: each is sent with its reason. Whatever comes from the service is put on the page as text.

function outcome(decision) {
  if (decision === "approve") return "Approved: the next ingest takes it up.";
  if (decision === "reject") return "Rejected.";
  return null; // the page, read again, tells it
}

for (const form of document.querySelectorAll("form.decision")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const controls = form.querySelectorAll("button, input");
    const decision = (event.submitter ?? form.querySelector("button")).value;
    const status = form.querySelector("[role=status]");
    const reason = form.elements.reason.value;
    for (const control of controls) control.disabled = true;
    status.className = "small quiet";
    status.textContent = "…";
    try {
      const answer = await fetch(`/console/drops/${encodeURIComponent(form.dataset.drop)}/${decision}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ reason }),
      });
      const body = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(body.detail ?? `the service answered ${answer.status}`);
      const words = outcome(decision);
      if (words) status.textContent = words;
      else location.reload();
    } catch (error) {
      status.className = "small error";
      status.textContent = error.message;
      for (const control of controls) control.disabled = false;
    }
  });
}
