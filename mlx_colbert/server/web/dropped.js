/** The files of a drop, those in folders too. */

const MOST_FILES = 2000;

/**
 * The files of a drop: `files` as [path, File], `problems` as [path, reason].
 * Files near the top come first, so that one huge folder does not hide the others.
 */
export async function filesOf(transfer) {
  // The list is empty after the first pause, so all entries are taken now.
  const waiting = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
  const found = { files: [], problems: [] };
  for (const entry of waiting) {
    if (found.files.length >= MOST_FILES) {
      found.problems.push(["", `Only the first ${MOST_FILES} files were taken. Drop the other folders one by one, or add the folder by its path.`]);
      break;
    }
    try {
      if (entry instanceof File) found.files.push([entry.name, entry]);
      else if (entry.isFile) found.files.push([pathOf(entry), await new Promise((resolve, reject) => { entry.file(resolve, reject); })]);
      else waiting.push(...await inside(entry));
    } catch {
      found.problems.push([pathOf(entry), "The browser cannot read it."]);
    }
  }
  return found;
}

const pathOf = (entry) => entry.fullPath.replace(/^\//, "");

/** What is in a folder, without what is hidden. A browser gives it in parts. */
async function inside(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!part.length) return all.filter((entry) => !entry.name.startsWith("."));
    all.push(...part);
  }
}
