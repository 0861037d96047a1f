/** Parser of the `text/event-stream` format (WHATWG HTML, section 9.2.6), fed with pieces of text. */

export interface StreamEvent {
  event: string;
  data: string;
  id: string;
}

export class EventStreamParser {
  /** The last id that a complete event carried; sent as `Last-Event-ID` on reconnecting. */
  lastId = "";
  /** The reconnection time that the server asked for, in ms. */
  retryMs: number | null = null;
  private rest = "";
  private data: string[] = [];
  private event = "";
  private id = "";
  private first = true;

  /** Takes in a piece of the stream, cut anywhere, and returns the events it completes. */
  push(piece: string): StreamEvent[] {
    let text = this.rest + piece;
    if (this.first && text.length > 0) {
      if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
      this.first = false;
    }
    const events: StreamEvent[] = [];
    let start = 0;
    while (start < text.length) {
      let end = start;
      while (end < text.length && text[end] !== "\n" && text[end] !== "\r") end += 1;
      // A carriage return at the very end may be half of a CR LF: wait for the next piece.
      if (end === text.length || (text[end] === "\r" && end + 1 === text.length)) break;
      const line = text.slice(start, end);
      start = text[end] === "\r" && text[end + 1] === "\n" ? end + 2 : end + 1;
      if (line === "") {
        const complete = this.dispatch();
        if (complete !== null) events.push(complete);
      } else {
        this.field(line);
      }
    }
    this.rest = text.slice(start);
    return events;
  }

  private field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "data") this.data.push(value);
    else if (name === "event") this.event = value;
    else if (name === "id" && !value.includes("\0")) this.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  private dispatch(): StreamEvent | null {
    this.lastId = this.id;
    const complete =
      this.data.length > 0
        ? { event: this.event || "message", data: this.data.join("\n"), id: this.id }
        : null;
    this.data = [];
    this.event = "";
    return complete;
  }
}
