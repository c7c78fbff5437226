# SPDX-License-Identifier: Apache-2.0
# fish completion for ovms-scalerctl; written by: python3 -m ovms_scaler.ctl completion fish

# The words before the cursor, without options and their values.
function __ovms_scalerctl_words
    set -l values 0
    for word in (commandline -opc)[2..]
        if test $values -gt 0
            set values (math $values - 1)
        else if contains -- $word --api-key-file --binary --cacert --config --dataset-path --html --input-len --interval --level --lines --listen --max-concurrency --model --model-name --models --num-prompts --num-warmups --output --output-len --placement --request-rate --rounds --scale --seed --sha256 --shared-prefix --since --skip --sysroot --temperature --timeout --url --workers --workload -n
            set values 1
        else if contains -- $word --compare
            set values 2
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# Whether these words, a verb, are the first ones.
function __ovms_scalerctl_in
    set -l words (__ovms_scalerctl_words)
    set -l length (count $argv)
    test (count $words) -ge $length; and test "$words[1..$length]" = "$argv"
end

# Whether they are followed by so many others, and no more.
function __ovms_scalerctl_at
    set -l words (__ovms_scalerctl_words)
    set -l verb $argv[2..]
    test (count $words) -eq (math (count $verb) + $argv[1]); or return
    test -z "$verb"; or __ovms_scalerctl_in $verb
end

# Words of one kind that only the host knows.
function __ovms_scalerctl_names
    ovms-scalerctl names $argv[1] 2>/dev/null
end

complete -c ovms-scalerctl -f

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a init -d 'Write the first configuration, from what is found here'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a topology -d 'Show NUMA nodes, CPUs, memory and GPUs of this machine'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a plan -d 'Show what the agent would do, and do nothing'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a render -d 'Write every file that the agent would write below DIR'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a check-config -d 'Say whether the agent would accept a configuration'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a verify -d 'Compare what systemd, kernel and proxy say with the plan'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a doctor -d 'Look for what goes wrong in practice, and say what helps'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a status -d 'Show who serves, and why the others do not'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a top -d 'Show live what instances do and use, and who is not ready'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a events -d 'Show what the agent did, and why'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a logs -d 'Show what an instance says, and what others say of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a reload -d 'Have the agent take its configuration file, if it is valid'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a drain -d 'Take an instance, or those of a pool, out of use'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a undrain -d 'Take an instance, or those of a pool, into use again'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a restart -d 'Restart instances that run, all of them without a name'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a reset -d 'Try again what failed or is quarantined'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a pause -d 'Have the agent observe and change nothing, until resume'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a resume -d 'Have the agent act again after pause'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a engine -d 'Install releases of OVMS, and go from one to another'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a bench -d 'Measure the front under a load of its own'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -a version -d 'Show the versions of this program and of what it works with'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -l version -d 'Show the version and exit'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l models -x -a '(__fish_complete_directories)' -d 'Look for models below DIR; may be repeated'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l model -r -F -d 'Serve this one: the directory of a model, or an OVMS config.json'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l model-name -x -d 'What clients call the model'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l placement -x -a 'numa gpu both hetero whole' -d 'Where to serve it; both is numa and gpu behind one address'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l listen -x -d 'Port, or ADDRESS:PORT, for clients'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l binary -r -F -d 'The ovms program'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l output -r -F -d 'Where to write, - for standard output'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l force -d 'Replace a configuration, and keep it as FILE.old'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l no-input -d 'Ask nothing; fail where something cannot be known'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l sysroot -x -a '(__fish_complete_directories)' -d 'Look at DIR/sys and DIR/proc in place of this machine\'s (a copied host)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in init' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in topology' -l sysroot -x -a '(__fish_complete_directories)' -d 'Look at DIR/sys and DIR/proc in place of this machine\'s (a copied host)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in topology' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in topology' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -l sysroot -x -a '(__fish_complete_directories)' -d 'Look at DIR/sys and DIR/proc in place of this machine\'s (a copied host)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -l diff -d 'Whether to show what changes in each file'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -l no-diff -d 'Whether to show what changes in each file'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in plan' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in render' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in render' -l sysroot -x -a '(__fish_complete_directories)' -d 'Look at DIR/sys and DIR/proc in place of this machine\'s (a copied host)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in render' -l output -x -a '(__fish_complete_directories)' -d 'Where to write: an empty directory, or one that was rendered to before'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in render' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in render' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 check-config' -F -d 'FILE'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in check-config' -l sysroot -x -a '(__fish_complete_directories)' -d 'Look at DIR/sys and DIR/proc in place of this machine\'s (a copied host)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in check-config' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in check-config' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 verify' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in verify' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in verify' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in verify' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -a '(__ovms_scalerctl_names checks)' -d 'CHECK'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -l skip -x -a '(__ovms_scalerctl_names checks)' -d 'Leave this check out'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -l all -d 'Show what is good, too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -l timeout -x -d 'Give a check up after that many seconds'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in doctor' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in status' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in status' -l watch -d 'Go on until interrupted, with every change'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in status' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in top' -l once -d 'Show it once, all of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in top' -l interval -x -d 'Seconds from one look to the next'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in top' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in top' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 events' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -l since -x -d 'Since then, as "10 min ago"; systemd.time(7)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -s n -l lines -x -d 'Show the last N, or all'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -s f -l follow -d 'Go on with what happens, until interrupted'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -l level -x -a 'info warning error critical' -d 'Of this level and worse: info, warning, error or critical'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in events' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 logs' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in logs' -l since -x -d 'Since then, as "10 min ago"; systemd.time(7)'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in logs' -s n -l lines -x -d 'Show the last N, or all'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in logs' -s f -l follow -d 'Go on with what happens, until interrupted'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in logs' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in logs' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in reload' -l allow-outage -d 'Also make changes for which nobody serves for a while'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reload' -l wait -d 'Return when it is done, or cannot be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reload' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reload' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 drain' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in drain' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in drain' -l wait -d 'Return when it is done, or cannot be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in drain' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in drain' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 undrain' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in undrain' -l wait -d 'Return when it is done, or cannot be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in undrain' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in undrain' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 restart' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in restart' -l rolling -d 'One after the other, each when the one before serves again'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in restart' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in restart' -l wait -d 'Return when it is done, or cannot be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in restart' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in restart' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 reset' -a '(__ovms_scalerctl_names names)' -d 'INSTANCE|POOL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reset' -l wait -d 'Return when it is done, or cannot be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reset' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in reset' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in pause' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in pause' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in resume' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in resume' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine' -a install -d 'Unpack a release, and have all instances go over to it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine' -a use -d 'Have all instances go over to an installed release'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine' -a rollback -d 'Have all instances go back to the release before'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine' -a list -d 'Show the releases, and which instances run which'
complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine' -a remove -d 'Remove a release that nobody uses'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine install' -F -d 'TARBALL'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l sha256 -x -d 'What the archive\'s SHA-256 must be'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l force -d 'Put it beside another build of the same version'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l no-switch -d 'Go on with the current release'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l no-wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine install' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine use' -a '(__ovms_scalerctl_names releases)' -d 'VERSION'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -l wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -l no-wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine use' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine rollback' -a '(__ovms_scalerctl_names releases)' -d 'VERSION'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -l wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -l no-wait -d 'Whether to follow the restarts to their end, the default'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine rollback' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine list' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine list' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine list' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_at 0 engine remove' -a '(__ovms_scalerctl_names releases)' -d 'VERSION'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine remove' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine remove' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in engine remove' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l num-prompts -x -d 'Requests to measure'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l request-rate -x -d 'Requests per second, by a Poisson process; inf for all at once'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l max-concurrency -x -d 'At most so many at once; alone, so many clients that wait for answers'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l dataset-path -r -F -d 'Conversations in ShareGPT\'s JSON, in place of synthetic prompts'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l workload -x -a 'sharegpt short' -d 'Lengths: short is 14-40 words in, 256 tokens out; sharegpt ~220, ~183'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l input-len -x -d 'Words of a prompt: 30, 14-40, or ~220 for a long tail around it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l output-len -x -d 'Tokens of an answer, likewise'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l shared-prefix -x -d 'Words with which all prompts begin, for prefix caches'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l ignore-eos -d 'Whether answers have exactly their length'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l no-ignore-eos -d 'Whether answers have exactly their length'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l temperature -x -d 'How much chance there is in the answers'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l num-warmups -x -d 'Requests before it, not counted'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l seed -x -d 'The same lengths and times for the same seed'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l workers -x -d 'Processes of the client'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l timeout -x -d 'When a request has failed'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l scale -x -d 'Measure with so many instances each; the others are drained meanwhile. By default each has 32 clients; with --max-concurrency or --request-rate the load is one and the same'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l against-whole -d 'With --scale up to all: then one unbound instance, too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l compare -r -F -d 'Measure two configurations in turn, and say which is better'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l rounds -x -d 'Measure so often'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l allow-outage -d 'Also when nobody serves for a while because of it'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l url -x -d 'Another front than this machine\'s, as http://server:8000/v3'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l model -x -d 'Which model, if there are several'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l api-key-file -r -F -d 'API key, if the front wants one'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l cacert -r -F -d 'Certificates to trust, with TLS'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l insecure -d 'Trust any certificate'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l html -r -F -d 'Write the report with plots to this file, too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in bench' -s h -l help -d 'Show what it does, with an example'

complete -c ovms-scalerctl -n '__ovms_scalerctl_in version' -l config -r -F -d 'Configuration; config.d/*.toml beside it is read too'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in version' -l json -d 'Print JSON for programs'
complete -c ovms-scalerctl -n '__ovms_scalerctl_in version' -s h -l help -d 'Show what it does, with an example'
