// The figures of `/metrics` that the overview shows.
import { getText } from "./client";

export interface Figures {
  /** Requests that wait for a writer, and for how long the oldest has. */
  queued: number;
  oldestSeconds: number;
  /** How often and how long Postgres committed since the gateway began. */
  commits: number;
  commitSeconds: number;
  databaseUp: boolean;
  databaseBytes: number | null;
  /** Events that had no outcome since the gateway began. */
  unfinished: number;
}

const LINE = /^(\w+)(?:\{([^}]*)\})? (\S+)/;

export async function figures(signal: AbortSignal): Promise<Figures> {
  const found: Figures = {
    queued: 0,
    oldestSeconds: 0,
    commits: 0,
    commitSeconds: 0,
    databaseUp: false,
    databaseBytes: null,
    unfinished: 0,
  };
  for (const line of (await getText("/metrics", signal)).split("\n")) {
    const [, name, labels = "", text = ""] = line.match(LINE) ?? [];
    const value = Number(text);
    switch (name) {
      case "eye_queue_requests":
        found.queued += value;
        break;
      case "eye_queue_oldest_seconds":
        found.oldestSeconds = Math.max(found.oldestSeconds, value);
        break;
      case "eye_commit_seconds_count":
        if (labels.includes('"events"')) found.commits = value;
        break;
      case "eye_commit_seconds_sum":
        if (labels.includes('"events"')) found.commitSeconds = value;
        break;
      case "eye_database_up":
        found.databaseUp = value === 1;
        break;
      case "eye_table_bytes":
        found.databaseBytes = (found.databaseBytes ?? 0) + value;
        break;
      case "eye_unfinished_events_total":
        found.unfinished += value;
        break;
    }
  }
  return found;
}
