/** Small helpers around the DOM; no inline style attribute, so that the content policy can be strict. */

type Child = Node | string | null | undefined | false;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | boolean | undefined> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/** Writes only what differs: an unchanged text node costs no layout. */
export function text(node: Node, value: string): void {
  if (node.textContent !== value) node.textContent = value;
}

export function attribute(element: Element, name: string, value: string | null): void {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export const PRIORITY_MARK = {
  high: { shape: "▲", stars: "***", word: "High" },
  medium: { shape: "◆", stars: "**", word: "Medium" },
  low: { shape: "●", stars: "*", word: "Low" },
} as const;

/** A priority as IEC 60601-1-8 marks it: stars, with a shape, a word and a colour beside them. */
export function priorityMark(priority: keyof typeof PRIORITY_MARK): HTMLElement {
  const mark = PRIORITY_MARK[priority];
  return h(
    "span",
    { class: `mark ${priority}` },
    h("span", { "aria-hidden": "true" }, `${mark.shape} ${mark.stars} `),
    mark.word,
  );
}
