#pragma once
// One option: its name, what people read about it, how its value is read and shown.

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "idistill/options/given.hpp"
#include "idistill/options/values.hpp"

namespace idistill::options {

/// What an option decides of the units that a run can continue with, beside inputs, which enter by fingerprint.
enum class Decides : std::uint8_t {
    units,      ///< what they hold
    shortlist,  ///< which samples are refined, if any are (--refine)
    nothing,    ///< names of files, the selection, and how the run is run
};

/// A value for the documentation, which tries what it leaves without effect.
struct Word {
    std::string typed;  ///< as a user may give it
    std::string shown;  ///< what it is an example of, as in VALUE
};

/// What an option was called before: an error names the new name.
struct OldSpelling {
    std::string name;
    std::vector<std::string> words;  ///< with one of these values; none: with any
};

/// A file that a run reads, and the option that names it.
struct InputFile {
    std::string option;
    std::string path;
};

/// Commands that take something else under one name have an option each. apply and show come from option_kinds.hpp.
struct Option {
    std::string name;             ///< without dashes; also the key of the settings file
    std::string group;            ///< heading in --help
    std::string value_name = {};  ///< of its value; empty for a flag
    std::string help;
    bool list = false;       ///< takes several values and may be repeated
    bool required = false;   ///< by the commands that take it
    bool of_run = true;      ///< an option of a run
    bool of_select = false;  ///< an option of `select`
    bool of_embed = false;   ///< an option of `embed`
    Decides decides = Decides::units;
    std::string rival = {};  ///< option that says the same in another way: only one of the two is given
    std::vector<OldSpelling> old_spellings = {};
    std::vector<Word> words = {};  ///< all values, or one of each sort
    /// Checks and stores; throws Error(usage).
    std::function<void(Values&, const Given&)> apply = {};
    /// Null when not set.
    std::function<nlohmann::json(const Values&)> show = {};
    /// What stands in the run's identity where that is not what is shown.
    std::function<nlohmann::json(const Values&)> identity = {};
    /// Files that it names and that are read: --out is none of them.
    std::function<std::vector<InputFile>(const Values&)> reads = {};

    [[nodiscard]] bool flag() const { return value_name.empty(); }
    [[nodiscard]] bool of(Command command) const {
        return command == Command::select ? of_select : command == Command::embed ? of_embed : of_run;
    }
};

/// Why an option changes nothing under these settings ("--propagation none"), empty if it does something.
struct Idle {
    std::string cause;  ///< name of the option that makes it so
    std::string value;  ///< and its value
};

/// A module's part of that: the name of the option that leaves `option` without effect; empty where the module knows
/// none. The values are as they were given, not yet resolved.
using IdleRule = std::function<std::string(const Values& values, const std::string& option)>;

/// A value of `show` for people.
std::string shown(const nlohmann::json& value);

}  // namespace idistill::options
