// The notes of a job: text that its readers may edit.

import { patch } from "./api.js";
import { $, setText } from "./dom.js";

let saved = null;

/** Shows the notes of a job, unless the user is editing them. */
export function showNotes(job) {
  const now = job.notes ?? "";
  if (saved === null || $("notes").value === saved) $("notes").value = now;
  saved = now;
}

/** Makes the form save the notes of the job at this path. */
export function startNotes(path) {
  $("notes").addEventListener("input", () => setText($("notes-state"), "Not saved."));
  $("notes-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("save-notes").disabled = true;
    try {
      saved = (await patch(path, { notes: $("notes").value || null })).notes ?? "";
      setText($("notes-state"), "Saved.");
    } catch (error) {
      setText($("notes-state"), `Not saved: ${error.message} ${error.hint ?? ""}`);
    }
    $("save-notes").disabled = false;
  });
}
