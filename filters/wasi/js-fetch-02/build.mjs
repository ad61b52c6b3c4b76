// node build.mjs SOURCE WIT WORLD OUT: the component that a script becomes.

import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";

const [sourcePath, witPath, worldName, out] = process.argv.slice(2);
// What the script has no use for; clocks and streams the event loop itself needs.
const disableFeatures = ["random", "stdio"];
const { component } = await componentize({ sourcePath, witPath, worldName, disableFeatures });
await writeFile(out, component);
