// Decisions on held drops. Whatever comes from the service is put on the page as text, never as HTML.

for (const card of document.querySelectorAll(".held-drop")) {
  const form = card.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const decision = event.submitter ? event.submitter.value : "approve";
    const status = form.querySelector("[role=status]");
    const buttons = form.querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    status.textContent = "…";
    try {
      const answer = await fetch(`/console/drops/${encodeURIComponent(card.dataset.drop)}/${decision}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ reason: form.elements.reason.value }),
      });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.detail || answer.statusText);
      status.textContent = body.status === "rejected" ? "Rejected." : "Approved: the next ingest takes it up.";
    } catch (error) {
      status.textContent = error.message;
      for (const button of buttons) button.disabled = false;
    }
  });
}
