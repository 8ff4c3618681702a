// Whether the page is so narrow that lines of lists have two rows of text.
import { useEffect, useState } from "preact/hooks";

const NARROW = matchMedia("(max-width: 700px)");

export function useNarrow(): boolean {
  const [matches, setMatches] = useState(NARROW.matches);
  useEffect(() => {
    const look = () => setMatches(NARROW.matches);
    NARROW.addEventListener("change", look);
    return () => NARROW.removeEventListener("change", look);
  }, []);
  return matches;
}
