// The one function of Node's crypto that the client uses for its secret shares.
exports.randomInt = (low, high) => low + Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * (high - low))
