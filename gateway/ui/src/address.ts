// The address of what the page shows: `#/view?filter=value`. Every view and filter has one, so that it can be shared and the
// back button works. It stands behind the `#`, so that ids and filters are in no log of a proxy.
import { signal } from "@preact/signals";

export type Filters = Readonly<Record<string, string>>;
export interface Address {
  view: string;
  filters: Filters;
}

const FIRST = "overview";

function read(): Address {
  const [, view = FIRST, query = ""] = location.hash.match(/^#\/([\w-]*)(?:\?(.*))?$/) ?? [];
  return { view: view === "" ? FIRST : view, filters: Object.fromEntries(new URLSearchParams(query)) };
}

export const address = signal<Address>(read());

addEventListener("hashchange", () => {
  address.value = read();
});

/** The address of a view. Empty filters are left out. */
export function hrefOf(view: string, filters: Record<string, string | null | undefined> = {}): string {
  const given = Object.entries(filters).filter((pair): pair is [string, string] => pair[1] != null && pair[1] !== "");
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query === "" ? "" : `?${query}`}`;
}

/** Goes to a view. With `replace`, the back button leads to what was before this view. */
export function go(view: string, filters: Record<string, string | null | undefined> = {}, replace = false): void {
  history[replace ? "replaceState" : "pushState"](null, "", hrefOf(view, filters));
  address.value = read();
}
