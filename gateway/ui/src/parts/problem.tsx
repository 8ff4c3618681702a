// What the gateway said when it refused: in its words, with the code that leads to a page, and the id of the request.
import { TriangleAlert } from "lucide";
import { Refused, type Unreachable } from "../api/client";
import { Icon } from "./icon";

export function Problem({ of, doing }: { of: Refused | Unreachable; doing: string }) {
  if (!(of instanceof Refused)) {
    return (
      <div class="problem" role="alert">
        <Icon of={TriangleAlert} />
        <div>
          <strong>{doing}</strong>
          <p>{of.message} The page tries again by itself.</p>
        </div>
      </div>
    );
  }
  const { title, detail, request_id, type } = of.problem;
  return (
    <div class="problem" role="alert">
      <Icon of={TriangleAlert} />
      <div>
        <strong>
          {doing} {title}.
        </strong>
        {detail !== undefined && <p>{detail}</p>}
        <p class="small">
          {type?.startsWith("/problems/") === true && (
            <a href={type} target="_blank" rel="noreferrer">
              What {of.code} means
            </a>
          )}
          {request_id !== undefined && (
            <span>
              Request <code>{request_id}</code>
            </span>
          )}
        </p>
      </div>
    </div>
  );
}
