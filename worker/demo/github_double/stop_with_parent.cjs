// Preloaded into emulate: ends it when our end of its standard input closes, that is, also when we are killed.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
process.stdin.on("error", () => process.exit(0));
