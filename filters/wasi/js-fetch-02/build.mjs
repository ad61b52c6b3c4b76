// node build.mjs SOURCE WIT WORLD OUT: the component that a script becomes.

import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";

const [sourcePath, witPath, worldName, out] = process.argv.slice(2);
// What the script has no use for: `http` is to call out. Clocks and streams the event loop itself needs.
const disableFeatures = ["random", "stdio", "http"];
const { component } = await componentize({ sourcePath, witPath, worldName, disableFeatures });
await writeFile(out, component);
