// The command that sends an event, for a shell: whatever the event holds, the shell reads it as one word.

/** A text as one word of a shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The command that sends `event`. A token is taken from the environment, so that none stands in a history. */
export function curlOf(event: unknown, needsToken: boolean): string {
  const token = needsToken ? ` \\\n  -H "authorization: Bearer $EYE_TOKEN"` : "";
  return `curl -i ${location.origin}/v1/events -H 'content-type: application/json'${token} \\\n  --data-raw ${quoted(JSON.stringify(event, null, 2))}`;
}
