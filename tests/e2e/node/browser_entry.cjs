// What the page gets: the published client's core, unmodified, and TF.js, bundled for a browser by esbuild.
globalThis.Buffer = require('buffer/').Buffer
globalThis.process = { env: {}, browser: true, nextTick: (call, ...args) => queueMicrotask(() => call(...args)) }
globalThis.disco = require('@epfml/discojs-node/dist/core')
globalThis.tf = require('@tensorflow/tfjs')
