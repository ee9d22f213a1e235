//! A page of the documentation taken apart: blocks of code, prose, commands, links.

use std::path::{Component, Path, PathBuf};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub struct Page {
    /// From the repository's root.
    pub path: String,
    text: String,
}

/// A block of code. Behind its fence stand its language and, if it has one, a name.
pub struct Block {
    pub language: String,
    pub name: String,
    pub text: String,
}

/// `README.md` and all of `docs/`.
pub fn pages() -> Vec<Page> {
    let folder = std::fs::read_dir(format!("{ROOT}/docs")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    paths.push("README.md".to_owned());
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// A relative path from a folder, without `..`.
pub fn joined(folder: &Path, file: &str) -> String {
    let mut path = PathBuf::new();
    for part in folder.join(file).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{file} leads out of the repository"),
            part => path.push(part),
        }
    }
    path.to_str().unwrap().to_owned()
}

impl Page {
    pub fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self { path: path.to_owned(), text }
    }

    fn parts(&self) -> (Vec<Block>, String) {
        let (mut blocks, mut prose) = (Vec::new(), String::new());
        let mut open: Option<(usize, Block)> = None;
        for line in self.text.lines() {
            let bare = line.trim_start();
            let fence = bare.strip_prefix("```");
            match (open.take(), fence) {
                (Some((_, block)), Some(_)) => blocks.push(block),
                (Some((indent, mut block)), None) => {
                    // In a list a block stands below its text.
                    block.text += line.get(indent..).unwrap_or_default();
                    block.text.push('\n');
                    open = Some((indent, block));
                }
                (None, Some(info)) => {
                    let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                    let (language, name) = (language.to_owned(), name.to_owned());
                    open = Some((line.len() - bare.len(), Block { language, name, text: String::new() }));
                }
                (None, None) => {
                    prose += line;
                    prose.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a block does not end", self.path);
        (blocks, prose)
    }

    pub fn blocks(&self) -> Vec<Block> {
        self.parts().0
    }

    pub fn prose(&self) -> String {
        self.parts().1
    }

    /// What is called `postern …`, in shells and in sentences. `<placeholders>` are filled in.
    pub fn commands(&self) -> Vec<String> {
        let (blocks, prose) = self.parts();
        let shells = blocks.iter().filter(|block| ["sh", "console"].contains(&block.language.as_str()));
        let lines = shells.map(|block| block.text.replace("\\\n", " "));
        let mut commands: Vec<String> = lines
            .flat_map(|text| text.lines().flat_map(|line| simple_commands(&filled_in(line))).collect::<Vec<_>>())
            .collect();
        let spans = prose.split('`').skip(1).step_by(2).filter(|span| !span.contains('…'));
        commands.extend(spans.map(|span| filled_in(&span.replace('\n', " "))));
        commands.retain(|command| is_ours(command));
        commands
    }

    /// Where relative links lead.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let targets = targets.map(|(target, _)| target.to_owned());
        targets.filter(|target| !target.contains("://") && !target.contains(' ')).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings =
            prose.lines().filter_map(|line| line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' '));
        let anchor = |heading: &str| {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
        };
        headings.map(anchor).collect()
    }
}

/// `postern forget <event id>` becomes `postern forget x`.
fn filled_in(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some(start) = rest.find('<') {
        let (before, from) = rest.split_at(start);
        let is_placeholder = from[1..].starts_with(|c: char| c.is_ascii_alphabetic());
        match from.find('>').filter(|_| is_placeholder) {
            Some(end) => {
                out += before;
                out.push('x');
                rest = &from[end + 1..];
            }
            None => {
                out += &rest[..=start];
                rest = &rest[start + 1..];
            }
        }
    }
    out + rest
}

/// The commands of a line, without redirections and comments.
fn simple_commands(line: &str) -> Vec<String> {
    let (mut commands, mut command, mut quote, mut is_redirected) = (Vec::new(), String::new(), None, false);
    for c in line.trim().trim_start_matches("$ ").chars() {
        match (quote, c) {
            (None, '#') if command.is_empty() || command.ends_with(' ') => break,
            (None, '|' | '&' | ';') => {
                commands.push(std::mem::take(&mut command));
                is_redirected = false;
                continue;
            }
            (None, '>' | '<') => is_redirected = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        if !is_redirected {
            command.push(c);
        }
    }
    commands.push(command);
    commands.iter().map(|command| command.trim().to_owned()).collect()
}

/// Whether a command calls the binary, perhaps behind variables that are set for it.
fn is_ours(command: &str) -> bool {
    let first = command.split(' ').next().unwrap_or_default();
    let is_assigned = first.contains('=') && first.starts_with(|c: char| c.is_ascii_uppercase());
    command.starts_with("postern ") || (is_assigned && command.contains(" postern "))
}
