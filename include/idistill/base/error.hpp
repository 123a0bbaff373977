#pragma once
// The one exception type of idistill: what a user needs to act on a failure, kept as values so that tests check values.

#include <stdexcept>
#include <string>

namespace idistill {

/// Process exit codes; docs/cluster.md says what each asks of the user.
enum class ExitCode : int {
    ok = 0,
    internal_error = 1,  ///< a defect of idistill or of a library below it
    usage = 2,           ///< command line or settings file
    bad_input = 3,       ///< a model, token or result file is not what it should be
    result_exists = 4,   ///< the result is already there and --overwrite was not given
    locked = 5,          ///< another job works on the same state file
    state_mismatch = 6,  ///< the state file belongs to other settings or inputs
    too_large = 7,       ///< the run does not fit into memory or disk
    restart_me = 75,     ///< a rank stalled: the same command continues the run (EX_TEMPFAIL)
};

/// What went wrong, field by field; empty fields are left out of the message.
struct Failure {
    std::string where;     ///< file, option or stage
    std::string field;     ///< dataset, key, tensor or argument within it
    std::string expected;  ///< what was expected
    std::string found;     ///< what was found
    std::string remedy;    ///< what the user can do
};

/// Thrown for everything that ends a run. what() is the whole message; the fields stay readable.
class Error : public std::runtime_error {
public:
    Error(ExitCode code, Failure failure);

    [[nodiscard]] ExitCode code() const noexcept { return code_; }
    [[nodiscard]] const Failure& failure() const noexcept { return failure_; }

private:
    ExitCode code_;
    Failure failure_;
};

}  // namespace idistill
