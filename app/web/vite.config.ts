import { readFileSync } from "node:fs";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// The reference at /docs works without internet: its viewer lies beside the page.
const viewer: Plugin = {
  name: "reference-viewer",
  generateBundle() {
    for (const fileName of ["swagger-ui-bundle.js", "swagger-ui.css", "LICENSE", "NOTICE"]) {
      const source = readFileSync(`node_modules/swagger-ui-dist/${fileName}`);
      this.emitFile({ type: "asset", fileName: `reference/${fileName}`, source });
    }
  },
};

// No script, style or image may be inlined: the API serves the page under `default-src 'self'`.
export default defineConfig({
  base: "/",
  plugins: [viewer],
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  test: { include: ["tests/**/*.test.ts"] },
});
