// Light or dark: as the machine is set, or as the reader has chosen here. The choice is the one thing in local storage.
import { effect, signal } from "@preact/signals";

const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const PLACE = "eye.theme";
const stored = localStorage.getItem(PLACE);

export const theme = signal<Theme>(THEMES.find((one) => one === stored) ?? "system");
/** Counts up at each change of the colors, for what draws them itself. */
export const colors = signal(0);

effect(() => {
  if (theme.value === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem(PLACE);
  } else {
    document.documentElement.dataset.theme = theme.value;
    localStorage.setItem(PLACE, theme.value);
  }
  colors.value = colors.peek() + 1;
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors.value++;
});

export function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.peek()) + 1) % THEMES.length] ?? "system";
}

/** The value of a color of the style sheet, as it is now. */
export function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
