# Completion of dimo for fish: dimo completion fish | source
function __dimo_complete
    set -l typed (commandline -opc) (commandline -ct)
    set -l found ($typed[1] completion words -- $typed[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c dimo -f -a '(__dimo_complete)'
