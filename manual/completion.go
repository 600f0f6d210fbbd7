package main

import (
	"fmt"
	"strings"
)

// names are the flags, with -h.
func (c *command) names() []string {
	var names []string
	for _, f := range c.flags {
		names = append(names, "-"+f.name)
	}
	return append(names, "-h")
}

// takesFile reports whether a flag's argument is the name of a file or folder.
func (o option) takesFile() bool { return o.argument == "FILE" || o.argument == "DIR" }

// withArgument joins the flags of a kind with a separator.
func (c *command) withArgument(separator string, file bool) string {
	var names []string
	for _, f := range c.flags {
		if f.argument != "" && f.takesFile() == file {
			names = append(names, "-"+f.name)
		}
	}
	return strings.Join(names, separator)
}

func (u *usage) bash() string {
	var commands []string
	var cases strings.Builder
	for _, c := range u.commands {
		commands = append(commands, c.name)
		fmt.Fprintf(&cases, "    %s) flags=%q words=%q files=%q others=%q ;;\n", c.name, strings.Join(c.names(), " "),
			strings.Join(c.words, " "), c.withArgument(" ", true), c.withArgument(" ", false))
	}
	return fmt.Sprintf(`# bash completion for wssgate
_wssgate() {
  local flags="" words="" files="" others="" cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "%s help" -- "$cur"))
    return
  fi
  case ${COMP_WORDS[1]} in
    help) ((COMP_CWORD == 2)) && words="%[1]s" ;;
%s  esac
  if [[ " $files " == *" $prev "* ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [[ " $others " == *" $prev "* ]]; then
    return
  elif [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  elif ((COMP_CWORD == 2)); then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  fi
}
complete -o filenames -F _wssgate wssgate
`, strings.Join(commands, " "), cases.String())
}

func (u *usage) zsh() string {
	var commands, cases strings.Builder
	for _, c := range u.commands {
		fmt.Fprintf(&commands, "    %s\n", single(c.name+":"+c.summary))
		fmt.Fprintf(&cases, "    %s) arguments=(", c.name)
		for _, f := range c.flags {
			text := "-" + f.name + "[" + strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(f.text) + "]"
			switch {
			case f.takesFile():
				text += ":" + f.argument + ":_files"
			case f.argument != "":
				text += ":" + f.argument + ": "
			}
			fmt.Fprintf(&cases, "\n      %s", single(text))
		}
		if len(c.words) > 0 {
			fmt.Fprintf(&cases, "\n      %s", single("1:word:("+strings.Join(c.words, " ")+")"))
		}
		cases.WriteString("\n      '-h[print its usage]') ;;\n")
	}
	return fmt.Sprintf(`#compdef wssgate
local -a commands arguments
commands=(
%s    'help:print the usage of a command'
)
if ((CURRENT == 2)); then
  _describe command commands
  return
fi
case $words[2] in
    help) ((CURRENT == 3)) && _describe command commands; return ;;
%sesac
shift words
((CURRENT--))
_arguments $arguments
`, commands.String(), cases.String())
}

func (u *usage) fish() string {
	var b strings.Builder
	b.WriteString("# fish completion for wssgate\ncomplete -c wssgate -f\n")
	var commands []string
	for _, c := range u.commands {
		commands = append(commands, c.name)
		fmt.Fprintf(&b, "complete -c wssgate -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuoted(c.summary))
	}
	b.WriteString("complete -c wssgate -n __fish_use_subcommand -a help -d 'print the usage of a command'\n")
	fmt.Fprintf(&b, "complete -c wssgate -n '__fish_seen_subcommand_from help' -a '%s'\n", strings.Join(commands, " "))
	for _, c := range u.commands {
		when := single("__fish_seen_subcommand_from " + c.name + "; and not __fish_seen_subcommand_from help")
		for _, f := range c.flags {
			kind := ""
			switch {
			case f.takesFile():
				kind = " -r -F"
			case f.argument != "":
				kind = " -x"
			}
			fmt.Fprintf(&b, "complete -c wssgate -n %s -o %s%s -d %s\n", when, f.name, kind, fishQuoted(f.text))
		}
		if len(c.words) > 0 {
			fmt.Fprintf(&b, "complete -c wssgate -n %s -a %s\n", when, single(strings.Join(c.words, " ")))
		}
	}
	return b.String()
}

// single is a word for bash and zsh.
func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fishQuoted is a word for fish.
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
