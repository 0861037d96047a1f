import { describe, expect, it } from "vitest";

import { backoffMs } from "../src/live";
import { EventStreamParser } from "../src/sse";

const STREAM =
  "\ufeff: keep-alive\r\nretry: 1500\r\n\r\nid: 1\nevent: bed\ndata: {\"a\":\ndata: 1}\n\nid: 2\rdata:x\r\rdata\n\nevent: nothing\n\n";

describe("the parser of the live stream", () => {
  it("gives the same events however the stream is cut", () => {
    const whole = new EventStreamParser();
    const events = whole.push(STREAM);
    expect(events).toEqual([
      { event: "bed", data: '{"a":\n1}', id: "1" },
      { event: "message", data: "x", id: "2" },
      { event: "message", data: "", id: "2" },
    ]);
    for (let size = 1; size < STREAM.length; size += 1) {
      const parser = new EventStreamParser();
      const got = [];
      for (let i = 0; i < STREAM.length; i += size) got.push(...parser.push(STREAM.slice(i, i + size)));
      expect(got).toEqual(events);
      expect(parser.lastId).toBe("2");
      expect(parser.retryMs).toBe(1500);
    }
  });

  it("keeps the last id only of complete events", () => {
    const parser = new EventStreamParser();
    parser.push("id: 7\ndata: a\n\nid: 8\ndata: b\n");
    expect(parser.lastId).toBe("7");
  });
});

describe("the time before reconnecting", () => {
  it("doubles to a bound and differs between pages", () => {
    expect(backoffMs(0, 1)).toBe(500);
    expect(backoffMs(3, 1)).toBe(4000);
    expect(backoffMs(50, 1)).toBe(10_000);
    expect(backoffMs(50, 0)).toBe(5_000);
  });
});
