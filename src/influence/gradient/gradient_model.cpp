#include "gradient_model.hpp"

#include <fmt/format.h>

#include <utility>

#include "idistill/comm/say.hpp"
#include "idistill/model/loaded_model.hpp"

namespace idistill::influence {

LoadedOptimizer load_optimizer(comm::Communicator& comm, const std::string& option, const std::string& path,
                               const std::vector<model::LinearLayer>& layers, OptimizerFile::Form form) {
    auto opened = std::make_unique<const OptimizerFile>(path, layers, form);
    const auto& file = *opened;
    auto memory = std::make_unique<comm::NodeSharedMemory>(comm, file.bytes());
    std::string mine;  // empty on ranks that only look
    if (memory->is_writer()) {
        const auto untouched = file.fill(memory->bytes());
        if (untouched.zero > 0 && form == OptimizerFile::Form::factors)
            say(comm,
                fmt::format("note: {} of {} parameters ({:.2g} %) were never touched by the optimizer (second moment "
                            "0) and count as not trained",
                            untouched.zero, untouched.all,
                            100.0 * static_cast<double>(untouched.zero) / static_cast<double>(untouched.all)));
        mine = file.sha256();
    }
    memory->publish();
    auto sha256 = model::agreed_fingerprint(comm, option, "state", mine);
    auto preconditioner = file.preconditioner(memory->bytes());
    return {std::move(memory), std::move(sha256), std::move(preconditioner), std::move(opened)};
}

}  // namespace idistill::influence
