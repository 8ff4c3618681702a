// A text to copy, with a button that copies it.
import { Check, Copy as CopyIcon } from "lucide";
import { useState } from "preact/hooks";
import { Icon } from "./icon";

export function Code({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), 2000);
    } catch {
      // Without the right to the clipboard, or over plain HTTP, the text is selected by hand.
      setCopied(false);
    }
  };
  return (
    <div class="code">
      <pre tabIndex={0} role="region" aria-label={label}>
        {text}
      </pre>
      {isSecureContext && (
        <button type="button" class="plain" onClick={copy}>
          <Icon of={copied ? Check : CopyIcon} />
          <span aria-live="polite">{copied ? "Copied" : "Copy"}</span>
        </button>
      )}
    </div>
  );
}
