/** The live stream over fetch (EventSource cannot carry a token), reconnecting with backoff. */

import { ProblemError, type Api } from "./api";
import { EventStreamParser, type StreamEvent } from "./sse";

export type Connection = "connecting" | "live" | "disconnected";

const SILENT_MS = 20_000;
const SLICE_MS = 8;

/** Time before the nth attempt to reconnect, with jitter, so that pages do not return all at once. */
export function backoffMs(attempt: number, random: number): number {
  return Math.min(10_000, 500 * 2 ** Math.min(attempt, 6)) * (0.5 + random / 2);
}

/** Lets the browser paint and take input before going on. */
const breathe = (() => {
  const channel = new MessageChannel();
  const waiting: (() => void)[] = [];
  channel.port1.onmessage = () => waiting.shift()?.();
  return () =>
    new Promise<void>((resolve) => {
      waiting.push(resolve);
      channel.port2.postMessage(null);
    });
})();

export class LiveStream {
  /** When the last byte came, by `performance.now()`; keep-alives count. */
  heardAt = performance.now();
  private lastId = "";
  private stopped = false;
  private current: AbortController | null = null;

  constructor(
    private readonly api: Api,
    private readonly onEvent: (event: StreamEvent) => void,
    private readonly onState: (state: Connection) => void,
    /** Reads everything anew: called before each connection that cannot resume. */
    private readonly refresh: () => Promise<void>,
  ) {}

  stop(): void {
    this.stopped = true;
    this.current?.abort();
  }

  async run(): Promise<void> {
    let attempt = 0;
    while (!this.stopped) {
      const before = this.heardAt;
      try {
        await this.refresh();
        await this.read();
      } catch (error) {
        if (error instanceof ProblemError && error.status === 401) return;
        if (!(error instanceof ProblemError || error instanceof TypeError || isAbort(error)))
          throw error;
      }
      if (this.stopped) return;
      this.onState("disconnected");
      attempt = this.heardAt > before + 5_000 ? 0 : attempt + 1;
      await new Promise((resolve) => setTimeout(resolve, backoffMs(attempt, Math.random())));
    }
  }

  private async read(): Promise<void> {
    const abort = new AbortController();
    this.current = abort;
    // A connection that says nothing, not even a keep-alive, is dead whatever TCP thinks.
    const watch = setInterval(() => {
      if (performance.now() - this.heardAt > SILENT_MS) abort.abort();
    }, 1_000);
    this.heardAt = performance.now();
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (this.lastId) headers["Last-Event-ID"] = this.lastId;
      const response = await this.api.fetch("/v1/stream?every_ms=1000", {
        headers,
        signal: abort.signal,
      });
      if (response.body === null) return;
      this.onState("live");
      const parser = new EventStreamParser();
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      let sliceStart = performance.now();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        this.heardAt = performance.now();
        for (const event of parser.push(decoder.decode(value, { stream: true }))) {
          this.onEvent(event);
          if (performance.now() - sliceStart > SLICE_MS) {
            await breathe();
            sliceStart = performance.now();
          }
        }
        if (parser.lastId) this.lastId = parser.lastId;
      }
    } finally {
      clearInterval(watch);
    }
  }
}

const isAbort = (error: unknown): boolean =>
  error instanceof DOMException && error.name === "AbortError";
