// A one-time link carries its token in the fragment, which browsers never send: it is exchanged
// for a session here and removed from the address bar.
(() => {
  const status = document.getElementById("status");
  const params = new URLSearchParams(location.hash.slice(1));
  const token = params.get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  status.textContent = "Signing in…";
  fetch("/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  }).then(async (response) => {
    if (response.ok) {
      location.replace((await response.json()).next);
      return;
    }
    status.textContent = "This link was used already or is too old. Sign in with an API key.";
    status.className = "error";
  }).catch(() => {
    status.textContent = "The server could not be reached. Reload the page to try again.";
    status.className = "error";
  });
})();
