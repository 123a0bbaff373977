#include "checkpoints.hpp"

#include <filesystem>

#include "idistill/base/error.hpp"
#include "idistill/data/tokenizer_fingerprint.hpp"
#include "idistill/model/loaded_model.hpp"
#include "idistill/model/safetensors.hpp"
#include "idistill/options/run_settings.hpp"

namespace idistill::influence {

std::vector<Checkpoint> checkpoints_of(const options::Values& values) {
    const auto& given = values.of<LessSettings>().checkpoints;
    if (!given.empty()) return given;
    return {{values.of<options::InputSettings>().model, 1.0}};
}

std::string state_of(const Checkpoint& checkpoint) {
    return (std::filesystem::path(checkpoint.directory) / "optimizer.safetensors").string();
}

void check_checkpoint(const Checkpoint& checkpoint, const std::string& model, const model::ModelConfig& config) {
    const auto refuse = [&](const std::string& field, const std::string& expected, const std::string& found,
                            const std::string& remedy) {
        throw Error(ExitCode::bad_input, {checkpoint.directory, field, expected, found, remedy});
    };
    const auto own = model::check_model(checkpoint.directory).config;
    const auto here = model::shape(own), there = model::shape(config);
    if (here != there)
        refuse("config.json", "that of --model " + model + ": " + there, here,
               "Checkpoints are of one model: give those of the training that --model is from.");
    const auto of_model = data::tokenizer_fingerprint(model),
               of_checkpoint = data::tokenizer_fingerprint(checkpoint.directory);
    if (!of_model.sha256.empty() && !of_checkpoint.sha256.empty() && of_model.sha256 != of_checkpoint.sha256)
        refuse("tokenizer.json", "that of --model " + model, "another",
               "Checkpoints are of one model: give those of the training that --model is from.");
    if (!std::filesystem::exists(state_of(checkpoint)))
        refuse("optimizer.safetensors", "the optimizer's state beside the weights", "none",
               "jobs/warmup.py writes it; jobs/optimizer_state.py " + checkpoint.directory + " --model " +
                   checkpoint.directory + " --out " + state_of(checkpoint) + " makes it of Trainer's optimizer.pt.");
}

}  // namespace idistill::influence
