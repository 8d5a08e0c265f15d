// Browsers load no modules and no models from file:// addresses.
if (location.protocol === "file:") {
  document.getElementById("status").textContent = "";
  document.getElementById("error").textContent =
    "This page was opened as a file, and needs a web server. Run \"python -m http.server\" in its folder, then open " +
    "http://localhost:8000.";
}
