// A table that becomes a list of cards where the page is narrow. The roles are said in full, since a browser forgets those of
// a table that is laid out as something else.
import type { ComponentChild } from "preact";
import "./table.css";

export interface Column<T> {
  title: string;
  show: (row: T) => ComponentChild;
  /** Digits stand below digits. */
  number?: boolean;
  /** This column takes the room that is left. */
  wide?: boolean;
}

interface Given<T> {
  label: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  keyOf: (row: T) => string;
}

/** The first column names its row. */
export function Table<T>({ label, columns, rows, keyOf }: Given<T>) {
  const classOf = ({ number = false, wide = false }: Column<T>) => [number ? "number" : "", wide ? "wide" : ""].join(" ").trim();
  return (
    <table class="cards" role="table" aria-label={label}>
      <thead role="rowgroup">
        <tr role="row">
          {columns.map((column) => (
            <th key={column.title} scope="col" role="columnheader" class={classOf(column)}>
              {column.title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody role="rowgroup">
        {rows.map((row) => (
          <tr key={keyOf(row)} role="row">
            {columns.map((column, index) =>
              index === 0 ? (
                <th key={column.title} scope="row" role="rowheader" class={classOf(column)}>
                  {column.show(row)}
                </th>
              ) : (
                <td key={column.title} role="cell" class={classOf(column)} data-title={column.title}>
                  <div>{column.show(row)}</div>
                </td>
              ),
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
