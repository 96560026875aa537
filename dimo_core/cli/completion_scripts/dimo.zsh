#compdef dimo
# Completion of dimo for zsh, after compinit: eval "$(dimo completion zsh)"
_dimo() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n "$line" ]] || continue
        line="${line//:/\\:}"
        found+=("${line/$'\t'/:}")
    done
    if (( $#found )); then
        _describe dimo found
    else
        _files
    fi
}
compdef _dimo dimo
