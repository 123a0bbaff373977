#pragma once
// One table of all options: the command line, the settings file, --help, the recorded JSON and the printed table are
// made from it.

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "given.hpp"
#include "idistill/config/settings.hpp"

namespace idistill::config {

/// What an option decides of the units that a run can continue with, beside inputs, which enter by fingerprint.
enum class Decides : std::uint8_t {
    units,      ///< what they hold
    shortlist,  ///< which samples are refined, if any are (--refine)
    nothing,    ///< names of files, the selection, and how the run is run
};

/// Commands that take something else under one name have an option each.
struct Option {
    std::string name;        ///< without dashes; also the key of the settings file
    std::string group;       ///< heading in --help
    std::string value_name;  ///< of its value; empty for a flag
    std::string help;
    bool list = false;       ///< takes several values and may be repeated
    bool of_run = true;      ///< an option of a run and of `plan`
    bool of_select = false;  ///< an option of `select`
    bool of_embed = false;   ///< an option of `embed`
    Decides decides = Decides::units;
    std::function<void(Settings&, const Given&)> apply;   ///< checks and stores; throws Error(usage)
    std::function<nlohmann::json(const Settings&)> show;  ///< null when not set
    [[nodiscard]] bool flag() const { return value_name.empty(); }
    [[nodiscard]] bool of(Command command) const {
        return command == Command::select ? of_select : command == Command::embed ? of_embed : of_run;
    }
};

const std::vector<Option>& options();

/// A value of `show` for people.
std::string shown(const nlohmann::json& value);

/// The option that makes --selection auto round robin, and that which makes --influence auto first-order; empty if
/// none.
std::string against_weights(const Settings& settings);
std::string against_second_order(const Settings& settings);

/// Why an option changes nothing under these settings ("--propagation none"), empty if it does something.
struct Idle {
    std::string cause;  ///< name of the option that makes it so
    std::string value;  ///< and its value
};
Idle idle(const Settings& settings, const std::string& option);

}  // namespace idistill::config
