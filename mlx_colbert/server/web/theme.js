/** Light, dark, or as the system has it. It is no module, so it runs before the page is painted. */

{
  const CHOICES = ["system", "light", "dark"];
  const SIGNS = { system: "\u25d0", light: "\u2600\ufe0e", dark: "\u263e" };
  const KEY = "mlx-colbert-theme";
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

  let choice = "system";
  try {
    const kept = localStorage.getItem(KEY);
    if (CHOICES.includes(kept)) choice = kept;
  } catch { /* The browser keeps nothing: the system decides. */ }

  const apply = () => {
    document.documentElement.dataset.theme = choice === "system" ? (systemIsDark.matches ? "dark" : "light") : choice;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = SIGNS[choice];
    button.setAttribute("aria-label", `Colours: ${choice}`);
    button.title = `Colours: ${choice}`;
  };

  apply();
  systemIsDark.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      try { localStorage.setItem(KEY, choice); } catch { /* It holds until the page is closed. */ }
      apply();
    });
  });
}
