// A token, the one time that it is shown. It is in the state of the view that made it and nowhere else: leaving the view
// forgets it.
import { TriangleAlert } from "lucide";
import { useEffect, useRef } from "preact/hooks";
import { Code } from "../../parts/copy";
import { Icon } from "../../parts/icon";

export function TokenOnce({ token, name }: { token: string; name: string }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), []);
  return (
    <section class="card token" aria-labelledby="token">
      <h2 id="token" ref={heading} tabIndex={-1}>
        The token of <bdi>{name}</bdi>
      </h2>
      <Code text={token} label="The token" />
      <p class="warning">
        <Icon of={TriangleAlert} />
        <span>
          <strong>It is shown this once.</strong> The gateway keeps no copy, and this page forgets it when you leave. Put it where the application keeps its secrets, and
          nowhere else: whoever has it is this application.
        </span>
      </p>
    </section>
  );
}
