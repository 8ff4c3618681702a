// A module or a schema that somebody drops anywhere on the page, or chooses. It is read at once, so that what is checked is what is
// pushed, even if a build writes it again in between.
import { Upload } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "../../parts/icon";
import { bytes } from "../../parts/words";

/** Most bytes of a module that the gateway reads. */
const MODULE_BYTES_MAX = 64 * 1024 * 1024;

export interface Chosen {
  name: string;
  content: Blob;
}

interface Given {
  label: string;
  chosen: Chosen | null;
  disabled: boolean;
  choose: (file: Chosen) => void;
}

export function FileField({ label, chosen, disabled, choose }: Given) {
  const [over, setOver] = useState(false);
  const [wrong, setWrong] = useState<string | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const take = useRef<(files: FileList | null) => Promise<void>>(async () => {});
  take.current = async (files) => {
    const [file, second] = files ?? [];
    // The same file can be chosen again once it was built again.
    if (field.current !== null) field.current.value = "";
    if (file === undefined || disabled) return;
    const read = second !== undefined ? "Choose one file: each module judges the events of one event type." : await readFile(file);
    setWrong(typeof read === "string" ? read : null);
    if (typeof read !== "string") choose(read);
  };

  useEffect(() => {
    // A file that is dropped beside the field would take the place of the page.
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") === true;
    const above = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(false);
      void take.current(event.dataTransfer?.files ?? null);
    };
    addEventListener("dragover", above);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragover", above);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, []);

  return (
    <div class={`drop ${over ? "over" : ""}`}>
      <label class={`file ${disabled ? "disabled" : ""}`}>
        <input ref={field} type="file" accept=".wasm,.json,application/wasm,application/schema+json" disabled={disabled} onChange={(event) => void take.current(event.currentTarget.files)} />
        <Icon of={Upload} /> {label}
      </label>
      <span class="quiet">{over ? "Drop it here." : chosen === null ? "or drop it anywhere on this page" : "or drop another one"}</span>
      {chosen !== null && (
        <p class="chosen-file">
          <bdi>{chosen.name}</bdi> <span class="quiet">{bytes(chosen.content.size)}</span>
        </p>
      )}
      <div role="alert">{wrong !== null && <p class="bad">{wrong}</p>}</div>
    </div>
  );
}

/** The file with its content, or why it cannot be taken. */
async function readFile(file: File): Promise<Chosen | string> {
  if (file.size > MODULE_BYTES_MAX) return `This file has ${bytes(file.size)}, and a module has 64 MiB at most: build it for size.`;
  try {
    // A JSON Schema judges as a module does.
    const type = file.name.endsWith(".json") ? "application/schema+json" : "application/wasm";
    return { name: file.name, content: new Blob([await file.arrayBuffer()], { type }) };
  } catch {
    return "The browser cannot read this file. A folder is no module; choose the file that the build made.";
  }
}
