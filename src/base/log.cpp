#include "idistill/base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace idistill {
namespace {

spdlog::logger& logger() {
    static const auto made = [] {
        auto to_user = spdlog::stderr_logger_mt("idistill");
        to_user->set_pattern("%v");
        to_user->flush_on(spdlog::level::trace);
        return to_user;
    }();
    return *made;
}

}  // namespace

void name_rank(int rank) {
    if (rank > 0) logger().set_pattern("rank " + std::to_string(rank) + ": %v");
}

void say(const std::string& text) { logger().info("{}", text); }

}  // namespace idistill
