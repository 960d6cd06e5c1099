"""The exceptions of vulture: names that it sees no use of, in groups, each with the
reason why the name stays. Vulture reads this file as code that uses them; it never
runs.

`tests/test_packaging.py::test_eachAllowedNameIsNeeded` fails when a name of this list
is used elsewhere, or no longer exists.
"""

# Names that users call or catch: the roadmap's API and its table of errors.
_.waitNextAsync
_.startCopyTo
_.promoteAsync
_.dirtyFlags
_.dirtyBytes
_.NvmeSpillUnavailable

# The commands of the inspector, which `muninn/cli/grammar.py` names as `module:function`.
_.runAlloc
_.runOpen
_.runClose
_.runFree
_.runEvict
_.runDrain
_.runKeep
_.runLoad
_.runDomains
_.runPurge
_.runCompletion
_.runDoctor
_.runList
_.runDescribe
_.runTopology
_.runPromote
_.runHint
_.runPlan
_.runProf
_.runTop

# The operations of the HTTP interface, which `service/web/operations.py` names, and what
# its server calls or reads.
_.createBuffer
_.describeBuffer
_.promoteBuffer
_.deleteBuffer
_.health
_.capture_signals
_.should_exit
_.redirect_slashes

# What Python calls for a name that a module does not have yet, and for the list of all.
_.__getattr__
_.__dir__

# The program `muninn-prof`, which pyproject.toml names.
_.runProfiler

# The parts that bench starts in processes of their own, by name.
_.echoPyshmem
_.streamShared
_.streamPrivate
_.openTimes
_.shareTimes
_.awaitName
_.shareVram
_.openVram
_.followVersions
_.attachBundle
_.serveVersions
_.openBig
_.openTorch
_.answerTickets
_.answerEvents
_.launchAndAllocate
_.forkMembers

# The kernels and their CPU references, which `kernels/launch.py` takes by name; `ptxOf`
# is for the tests that look at what is compiled.
_.readSum
_.copyElements
_.copyMarked
_.packElements
_.packTransposed
_.scaleAdd
_.fillPattern
_.countMismatches
_.gatherSlices
_.scatterSlices
_.sliceDigests
_.ptxOf

# By this name Numba finds the code of a function that kernels of users call.
_.targetoptions

# Methods and fields of an access or a lock that the C part calls, reads or sets.
_._linger
_._isTimed
_._kind
_._shownIn
_.identName
_.plainIdent
_.resume
_.__del__

# A word of a row, and fields of one, that only the C part uses; the header is generated
# from the layout.
_.ROW_SUCCESSOR_OFFSET
_.ROBUST_TID
_.ROBUST_WAITERS

# What a notebook asks an object for.
_._repr_html_

# A method that rich calls.
_.on_broken_pipe

# A method that `io` calls.
_.readable

# Methods and attributes that the HTTP server of the standard library calls and reads.
_.base_environ
_.setup
_.raw_requestline
_.request_handler
_.log_message

# Part of the contract of the device port, which the conformance suite holds.

# A setting that `defaults.toml` and the roadmap have, and that has one legal value.
_.handleBytes

# Fields that are compared, unpacked or printed with all others of their tuple.
_.isRelayed
_.hasNativeAtomics
_.mostBytes
_.callSeconds

# A word of transfers that comes before its use: dirty bytes are counted in slices.

# The reason for which a transition of a row is legal; tests and documents read it.
_.by
_.when

# The writer's half of the seqlock, which the C part does inside an access. The tests
# write with it as a process without an owner, and the fail points are named after it.

# The test rigs count the leases of one member with it.
_.holdsOf

# Fields of structures that belong to others: the CUDA driver, a notebook.
_.requestedHandleTypes
_.language_info

# The build back-end finds its hooks by these names.
_.CustomMetadataHook
_.CustomBuildHook
_.initialize

# A field of a structure of the driver.
_.srcAccessOrder
